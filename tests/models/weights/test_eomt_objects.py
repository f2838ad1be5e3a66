"""Objects and segments of this package and of transformers' whole pipeline, on the same weights in every layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, EomtForUniversalSegmentation, EomtImageProcessor

from eomt.models import EoMT
from eomt.tasks import InstanceSegmentation, PanopticSegmentation
from eomt.utils.packed_masks import PackedMasks
from tests.models.weights.eomt_pairs import SIDE, make_network, make_transformers, official, randomize, save

STUFF = [3, 4]
# of some sizes, as 40 x 110, transformers cuts the long side to 47 pixels, where the authors' code has 48
SIZES = [(48, 48), (48, 80), (75, 48), (32, 96), (37, 61)]
TASKS: dict[str, Any] = {
    "instance": lambda network: InstanceSegmentation(network, score_threshold=0.6).eval(),
    "panoptic": lambda network: PanopticSegmentation(
        network, stuff_classes=STUFF, score_threshold=0.4, overlap_threshold=0.3
    ).eval(),
}


def sharpen(network: EoMT) -> EoMT:
    """Queries far from each other, so that an image shows several sure objects; not masked."""
    with torch.no_grad():
        for parameter in (network.q.weight, network.class_head.weight, network.mask_head[4].weight):
            parameter.mul_(8)
        network.attn_mask_probs.zero_()
    return network


def images_of(size: tuple[int, int]) -> Tensor:
    """Three smooth images, uint8."""
    coarse = torch.rand(3, 3, *(side // 8 for side in size), generator=torch.Generator().manual_seed(1))
    return (F.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).byte()


def assert_same_answers(task: Any, model: Any, processor: Any) -> None:
    """Logits, and what is made of them: classes, scores and pixels."""
    count = 0
    for size in SIZES:
        for image in images_of(size):
            inputs = processor(image, return_tensors="pt")
            inputs.pop("patch_offsets", None)
            with torch.no_grad():
                answer = model(**inputs)
                ours = task.network(task.windows([image]))[-1]
                (found,) = task.predict_step({"image": [image]}, 0)["found"]
            for mine, theirs in zip(ours, (answer.masks_queries_logits, answer.class_queries_logits), strict=True):
                assert float((mine - theirs).abs().max() / theirs.abs().max()) < 1e-4
            if isinstance(task, InstanceSegmentation):
                (expected,) = processor.post_process_instance_segmentation(answer, [size], threshold=0.6)
            else:
                (expected,) = processor.post_process_panoptic_segmentation(
                    answer, [size], 0.4, overlap_mask_area_threshold=0.3, stuff_classes=STUFF
                )
            infos = expected["segments_info"]
            count += len(infos)
            if isinstance(task, InstanceSegmentation):
                infos = sorted(infos, key=lambda info: -info["score"])
                painted = torch.full(size, -1.0)
                for mask, info in sorted(zip(found.masks.dense(), infos, strict=True), key=lambda pair: pair[1]["id"]):
                    painted[mask] = info["id"]
            else:
                painted = found.segment_map - 1
            assert found.labels.tolist() == [info["label_id"] for info in infos]
            assert found.scores.tolist() == pytest.approx([info["score"] for info in infos], abs=1e-4)
            assert float((painted == expected["segmentation"]).float().mean()) > 0.999
    assert count > len(SIZES) * 3


@pytest.mark.parametrize("kind", TASKS)
def test_a_written_folder_answers_in_the_pipeline_of_transformers(tmp_path: Path, kind: str) -> None:
    task = TASKS[kind](sharpen(randomize(make_network())))
    task.network.write(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert (processor.do_pad, processor.do_split_image) == (True, False)
    assert_same_answers(task, EomtForUniversalSegmentation.from_pretrained(tmp_path).eval(), processor)


@pytest.mark.parametrize("kind", TASKS)
def test_a_model_of_transformers_answers_alike_here(tmp_path: Path, kind: str) -> None:
    model = make_transformers("dinov2").eval()
    with torch.no_grad():
        for parameter in (model.query.weight, model.class_predictor.weight, model.mask_head.fc3.weight):
            parameter.mul_(8)
        model.attn_mask_probs.zero_()
    processor = EomtImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE}, do_pad=True)
    processor.save_pretrained(tmp_path)
    task = TASKS[kind](make_network(pretrained=save(model, tmp_path)))
    assert_same_answers(task, model, processor)


@pytest.mark.parametrize("kind", TASKS)
def test_an_official_file_gives_the_answers_of_what_it_was_made_of(tmp_path: Path, kind: str) -> None:
    task = TASKS[kind](sharpen(randomize(make_network())))
    torch.save(official(task.network), tmp_path / "pytorch_model.bin")
    again = TASKS[kind](make_network(pretrained=str(tmp_path / "pytorch_model.bin")))
    batch = {"image": [*images_of((48, 80))]}
    with torch.no_grad():
        answers = [one.predict_step(batch, 0)["found"] for one in (task, again)]
    assert sum(len(found.labels) for found in answers[0]) > 3
    for one, other in zip(*answers, strict=True):
        for part, same in zip(one, other, strict=True):
            parts = (p.dense() if isinstance(p, PackedMasks) else p for p in (part, same))
            assert torch.equal(*parts)
