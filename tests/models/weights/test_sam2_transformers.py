"""Merged folders of SAM 2 in transformers: real images, the processor that was written, and the same masks."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor, Sam2Model

from datamodules.generated.steel.drawing import draw_steel
from eomt.errors import UserError
from eomt.models import SAM2
from eomt.models.sam2 import default_lora
from eomt.models.weights.sam2.save import save_hugging_face
from eomt.prompts import tight_boxes
from eomt.tasks import PromptedSegmentation
from eomt.verification.merging import merged_copy
from tests.tiny_sam2 import make_sam2

BASE = str(Path(__file__).parents[3] / "configs" / "quickstart" / "sam2_base")
SIDE = 192


def steel(count: int) -> list[tuple[Tensor, Tensor]]:
    """Images of steel (3, H, W) with at least one defect, and the boxes of their defects."""
    random, found = np.random.default_rng(3), []
    while len(found) < count:
        canvas = draw_steel(random, (SIDE, SIDE))
        masks = torch.from_numpy(np.stack(list(canvas.masks.values()))) if canvas.masks else torch.zeros(0)
        if len(masks):
            image = torch.from_numpy(canvas.image()).permute(2, 0, 1)
            found.append((image, tight_boxes(masks.bool())))
    return found


def write_trained(folder: Path) -> SAM2:
    """An adapted quickstart SAM 2, written as a merged folder; the network as it was merged is returned."""
    torch.manual_seed(0)
    task = PromptedSegmentation(SAM2(pretrained=BASE, img_size=SIDE), default_lora())
    for name, parameter in task.network.named_parameters():
        if "lora_B" in name or "lora_b" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    merged, _, difference = merged_copy(task.network, task.synthetic_batch(1), task.outputs)
    assert difference < 1e-4
    save_hugging_face(merged, folder)  # type: ignore[arg-type]
    return task.network.eval()


@torch.no_grad()
def test_transformers_draws_the_masks_that_the_network_draws(tmp_path: Path) -> None:
    """15.1: the written config let transformers choose another of the four masks for 53 of 61 defects."""
    network = write_trained(tmp_path / "merged")
    theirs = Sam2Model.from_pretrained(tmp_path / "merged").eval()
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "merged")
    compared = 0
    for image, boxes in steel(20):
        given = processor(images=image, input_boxes=boxes[None].tolist(), return_tensors="pt")
        assert given["pixel_values"].shape[-2:] == (SIDE, SIDE)
        answer = theirs(**{k: v for k, v in given.items() if k != "original_sizes"}, multimask_output=False)
        found = processor.post_process_masks(answer.pred_masks, given["original_sizes"])[0][:, 0]
        logits = network(image[None], boxes=boxes[None], multimask=False).mask_logits[0]
        torch.testing.assert_close(answer.pred_masks[0], logits, rtol=1e-3, atol=1e-3)
        # logits that close to the threshold are rounding
        logits = F.interpolate(logits, (SIDE, SIDE), mode="bilinear")[:, 0]
        assert torch.equal(found[logits.abs() > 2e-3], (logits > 0)[logits.abs() > 2e-3])
        compared += len(boxes)
    assert compared >= 20


@torch.no_grad()
def test_clicks_on_images_of_another_size_lie_where_the_network_puts_them(tmp_path: Path) -> None:
    """15.1: the processor scales prompts and images to the trained size, up to half a pixel of rounding."""
    network = write_trained(tmp_path / "merged")
    theirs = Sam2Model.from_pretrained(tmp_path / "merged").eval()
    processor: Any = AutoProcessor.from_pretrained(tmp_path / "merged")
    (image, boxes), *_ = steel(1)
    half = F.interpolate(image[None].float(), size=(96, 96), mode="area")[0].to(torch.uint8)
    click = [[[float(x) for x in boxes[0].view(2, 2).mean(0) / 2]]]
    given = processor(images=half, input_points=[click], input_labels=[[[1]]], return_tensors="pt")
    torch.testing.assert_close(given["input_points"].flatten(), boxes[0].view(2, 2).mean(0))
    answer = theirs(**{k: v for k, v in given.items() if k != "original_sizes"}, multimask_output=False)
    assert tuple(answer.pred_masks.shape[-2:]) == network.mask_size
    masks = processor.post_process_masks(answer.pred_masks, given["original_sizes"])
    assert tuple(masks[0].shape[-2:]) == (96, 96)


def test_a_folder_opens_at_the_size_that_it_was_trained_at(tmp_path: Path) -> None:
    """15.1: SAM2(pretrained=folder) took 1024 whatever the folder says."""
    for size in (96, (64, 160)):
        folder = tmp_path / str(size)
        network = make_sam2(img_size=size)  # type: ignore[arg-type]
        save_hugging_face(network, folder)
        again = SAM2(pretrained=str(folder))
        assert again.img_size == network.img_size
        assert SAM2.img_size_of({"pretrained": str(folder), "img_size": None}) == list(network.img_size)
        image = torch.randint(0, 256, (1, 3, *network.img_size), dtype=torch.uint8)
        box = torch.tensor([[[3.0, 5.0, 50.0, 60.0]]])
        torch.testing.assert_close(
            again.eval()(image, boxes=box).mask_logits, network.eval()(image, boxes=box).mask_logits
        )
        # as an architecture without weights, too
        assert SAM2(pretrained=False, size=str(folder)).img_size == network.img_size


def test_a_size_that_transformers_does_not_know_is_refused_by_it_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """15.1: a folder for 64 x 384 opened as 64 x 64 and died at the first image."""
    with caplog.at_level(logging.INFO, "eomt"):
        save_hugging_face(make_sam2(img_size=(64, 160)), tmp_path / "strip")
    assert "64 x 160" in caplog.text
    assert "eomt.models.SAM2" in caplog.text
    assert not (tmp_path / "strip" / "processor_config.json").exists()
    with pytest.raises(TypeError):
        Sam2Model.from_pretrained(tmp_path / "strip")


def test_class_prompts_without_a_presence_head_are_refused_in_one_line(tmp_path: Path) -> None:
    """15.2: those of 0.1.0 found nothing; what is missing is said."""
    network = make_sam2(prompt_free=True, num_classes=2)
    save_hugging_face(network, tmp_path / "free")
    again = make_sam2(pretrained=str(tmp_path / "free"), prompt_free=True, num_classes=2)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())
    file = tmp_path / "free" / "class_prompts.safetensors"
    save_file({"weight": load_file(file)["weight"]}, file)
    with pytest.raises(UserError, match="train the class prompts again") as caught:
        make_sam2(pretrained=str(tmp_path / "free"), prompt_free=True, num_classes=2)
    assert "\n" not in str(caught.value)
