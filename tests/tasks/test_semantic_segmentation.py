"""Windows, groups, schedules, checkpoints of the segmentation task."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers
from eomt.lora.config import LoRAConfig
from eomt.models.eomt import Prediction, class_scores
from eomt.tasks import SemanticSegmentation
from eomt.utils.windows import covering_size, resize_image, window_corners
from tests.tiny import make_eomt


def make_task(lora: LoRAConfig | None = None, **arguments: Any) -> SemanticSegmentation:
    torch.manual_seed(0)
    network = make_eomt(num_classes=3, masked_attn_enabled=False)
    return SemanticSegmentation(network, lora, num_points=64, **arguments).eval()


def image_of(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [
        ((32, 48), (32, 48), (32, 48)),
        ((64, 48), (32, 48), (64, 48)),
        ((100, 48), (32, 48), (100, 48)),
        ((64, 192), (32, 48), (32, 96)),
        ((16, 24), (32, 48), (32, 48)),
        ((1024, 2048), (644, 644), (644, 1288)),
    ],
)
def test_an_image_just_covers_the_window(
    size: tuple[int, int], window: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert covering_size(size, window) == expected


@pytest.mark.parametrize("size", [(32, 48), (33, 48), (32, 150), (95, 96)])
def test_windows_cover_every_pixel_and_stay_inside(size: tuple[int, int]) -> None:
    seen = torch.zeros(size)
    corners = window_corners(size, (32, 48))
    for top, left in corners:
        assert top + 32 <= size[0]
        assert left + 48 <= size[1]
        seen[top : top + 32, left : left + 48] += 1
    assert seen.min() > 0
    assert len(corners) == math.ceil(size[0] / 32) * math.ceil(size[1] / 48)


@pytest.mark.parametrize("window_batch_size", [1, 2, 8])
def test_segment_averages_its_windows(window_batch_size: int) -> None:
    task = make_task(window_batch_size=window_batch_size)
    for parameter in task.network.parameters():
        # far from its start, where all windows would agree
        torch.nn.init.normal_(parameter, std=0.5)
    images = image_of(32, 100, batch=2)
    found, loss = task.segment(images)
    assert loss is None
    expected, unaveraged = [], []
    with torch.no_grad():
        for image in images:
            total, last, count = torch.zeros(3, 32, 100), torch.zeros(3, 32, 100), torch.zeros(32, 100)
            for left in (0, 26, 52):
                mask_logits, class_logits = task.network(image[None, :, :, left : left + 48])[-1]
                masks = F.interpolate(mask_logits, (32, 48), mode="bilinear")[0].sigmoid()
                scores = torch.einsum("qc,qhw->chw", class_logits[0].softmax(-1)[:, :-1], masks)
                total[:, :, left : left + 48] += scores
                last[:, :, left : left + 48] = scores
                count[:, left : left + 48] += 1
            expected.append((total / count).argmax(0))
            unaveraged.append(last.argmax(0))
    assert (torch.stack(unaveraged) != torch.stack(expected)).float().mean() > 0.02
    assert (found == torch.stack(expected)).float().mean() > 0.999


def test_segment_answers_at_the_size_of_the_image() -> None:
    task = make_task()
    for size in ((32, 48), (20, 30), (70, 64), (31, 149)):
        prediction, loss = task.segment(image_of(*size), torch.zeros(1, *size, dtype=torch.long))
        assert prediction.shape == (1, *size)
        assert loss is not None
        assert loss.isfinite()


def test_validation_loss_is_repeatable_and_leaves_the_random_state() -> None:
    task = make_task()
    image, mask = image_of(32, 100), torch.randint(0, 3, (1, 32, 100))
    state = torch.get_rng_state()
    first = task.segment(image, mask)[1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(task.segment(image, mask)[1], first)


def test_outputs_switch_masked_attention_off_and_on_again() -> None:
    task = make_task()
    task.network.masked_attn_enabled = True
    task.network.attn_mask_probs.fill_(0.7)
    batch = {"image": image_of(32, 48)}
    masked = class_scores(task.network(batch["image"])[-1])
    assert not torch.allclose(task.outputs(task.network, batch), masked)
    assert task.network.attn_mask_probs.tolist() == pytest.approx([0.7, 0.7])


def test_figures_of_training_are_those_of_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """15 A: `train_iou` interpolates mask logits to the image, not scores, as evaluation does."""
    task = make_task()
    monkeypatch.setattr(task, "ends_logged_step", lambda: False)
    torch.manual_seed(3)
    prediction = Prediction(torch.randn(1, 6, 8, 12) * 9, torch.randn(1, 6, 4) * 3)
    mask = class_scores(prediction, (32, 48)).argmax(1)
    task.training_metrics({"mask": mask}, [prediction])
    assert float(task.train_metric.compute()["accuracy"]) == 1.0
    blurred = F.interpolate(class_scores(prediction), (32, 48), mode="bilinear").argmax(1)
    assert (blurred != mask).float().mean() > 0.01


def groups_of(task: SemanticSegmentation) -> dict[str, float]:
    groups = task.parameter_groups()
    assert len({group["name"] for group in groups}) == len(groups)
    return {group["name"].removesuffix("_no_decay"): group["lr"] for group in groups}


def test_adapters_and_heads_have_rates_of_their_own() -> None:
    lora = LoRAConfig(rank=2, target_modules=["attention"], freeze_base_model=True, trainable_modules=["q"])
    assert groups_of(make_task(lora, lr=1e-3, head_lr=1e-4)) == {"adapters": 1e-3, "heads": 1e-4}
    assert groups_of(make_task(lora, lr=1e-3)) == {"adapters": 1e-3, "heads": 1e-3}


@pytest.mark.parametrize("backend", ["native", "peft"])
def test_lora_plus_gives_b_a_rate_of_its_own(backend: str) -> None:
    lora = LoRAConfig(
        rank=2, target_modules=["attention"], freeze_base_model=True, loraplus_lr_ratio=16, backend=backend
    )
    task = make_task(lora, lr=1e-3)
    assert groups_of(task) == {"adapters": 1e-3, "adapters_b": 16e-3}
    b = {id(layer.lora_b) for layer in lora_layers(task.network).values()}
    (group,) = [group for group in task.parameter_groups() if group["name"] == "adapters_b"]
    assert {id(parameter) for parameter in group["params"]} == b


def test_an_unfrozen_backbone_is_decayed_by_depth_and_adapters_are_not() -> None:
    lora = LoRAConfig(rank=2, target_modules=["attention"], freeze_base_model=False)
    rates = groups_of(make_task(lora, lr=1.0, layer_decay=0.5))
    assert rates["adapters"] == rates["heads"] == rates["backbone_6"] == 1.0
    assert [rates[f"backbone_{depth}"] for depth in range(6)] == [0.5 ** (6 - depth) for depth in range(6)]


def test_every_trainable_tensor_is_in_one_group_and_vectors_are_not_decayed() -> None:
    task = make_task(None)
    groups = task.parameter_groups()
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in task.network.parameters())
    for group in groups:
        assert {parameter.dim() > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("poly", 0.5**0.9)])
def test_the_rate_warms_up_and_falls_to_zero(schedule: Any, middle: float) -> None:
    task = make_task(None, lr=1.0, layer_decay=1.0, schedule=schedule, warmup=0.1)
    task._trainer = SimpleNamespace(estimated_stepping_batches=100)  # type: ignore[assignment]
    configured = task.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[index]
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # type: ignore[call-arg, union-attr]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(middle)
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr: -1.0"),
        ({"warmup": 1.0}, "warmup: 1.0"),
        ({"test_overlap": 1.0}, "test_overlap: 1.0"),
        ({"test_scales": [0.5]}, "test_scales"),
        ({"test_scales": []}, "test_scales"),
        ({"layer_decay": 0.0}, "layer_decay: 0.0"),
        ({"mask_annealing": [(0.0, 0.5)]}, "mask_annealing"),
        ({"mask_annealing": [(0.5, 0.5), (0.0, 1.0)]}, "mask_annealing"),
    ],
)
def test_bad_settings_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(None, **arguments)


def test_a_network_of_another_task_and_a_second_config_are_refused() -> None:
    with pytest.raises(UserError, match="network: Linear"):
        SemanticSegmentation(torch.nn.Linear(2, 2))
    network = make_eomt(lora_config=LoRAConfig(rank=2))
    with pytest.raises(UserError, match="adapted already"):
        SemanticSegmentation(network, LoRAConfig(rank=2))


def test_only_frozen_tensors_may_be_missing_from_a_checkpoint() -> None:
    lora = LoRAConfig(rank=2, freeze_base_model=True, trainable_modules=["q"])
    task = make_task(lora)
    checkpoint: dict[str, Any] = {}
    task.on_save_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    task.load_state_dict(state)
    for name in ("network.q.weight", "network.mask_head.0.lora_b"):
        with pytest.raises(UserError, match="missing"):
            task.load_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(UserError, match="not in this network"):
        task.load_state_dict(state | {"network.other": torch.zeros(1)})


def test_a_checkpoint_of_another_base_is_refused() -> None:
    lora = LoRAConfig(rank=2, freeze_base_model=True)
    checkpoint: dict[str, Any] = {}
    make_task(lora).on_save_checkpoint(checkpoint)
    torch.manual_seed(9)
    other = SemanticSegmentation(make_eomt(num_classes=3), lora)
    with pytest.raises(UserError, match="another base"):
        other.on_load_checkpoint(checkpoint)
    make_task(lora).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_masked_attention_is_annealed_block_by_block_as_the_authors_do(num_blocks: int) -> None:
    """15 F: contiguous, with parts of the same length before and after; for four blocks sixths of the run."""
    task = SemanticSegmentation(make_eomt(num_classes=3, num_blocks=num_blocks), num_points=64)
    bounds = [0.0, *(start for start, _ in task.mask_annealing), task.mask_annealing[-1][1], 1.0]
    parts = [end - start for start, end in pairwise(bounds)]
    assert parts == pytest.approx([1 / (num_blocks + 2)] * (num_blocks + 2))
    assert all(end == start for (_, end), (start, _) in pairwise(task.mask_annealing))


def test_without_a_word_blocks_of_full_fine_tuning_have_one_rate() -> None:
    """15 E: a decay by depth cost full fine-tuning .013 IoU, which flattered LoRA."""
    rates = groups_of(make_task(None, lr=1e-3))
    assert set(rates.values()) == {1e-3}
    assert len(rates) > 3


def test_views_of_the_test_are_averaged() -> None:
    """15 H: overlap, mirrored images and sizes count in `test` and `predict`, and not in validation."""
    task = make_task(test_overlap=0.5, test_flip=True, test_scales=[1.0, 1.5]).eval()
    for parameter in task.network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    image = image_of(32, 70)
    expected = torch.zeros(3, 32, 70)
    with torch.no_grad():
        for scale in (1.0, 1.5):
            for flip in (False, True):
                seen = resize_image(image, (round(32 * scale), round(70 * scale)))
                seen = seen.flip(-1) if flip else seen
                total, count = torch.zeros(3, *seen.shape[-2:]), torch.zeros(seen.shape[-2:])
                for top, left in window_corners(tuple(seen.shape[-2:]), (32, 48), 0.5):
                    area = (..., slice(top, top + 32), slice(left, left + 48))
                    total[area] += class_scores(task.network(seen[area])[-1], (32, 48))[0]
                    count[area] += 1
                scores = total / count
                scores = scores.flip(-1) if flip else scores
                expected += F.interpolate(scores[None], (32, 70), mode="bilinear")[0]
        found = task.predict_step({"image": image, "name": ["a"]}, 0)["prediction"]
        plain = task.segment(image)[0]
    assert float((found[0] == expected.argmax(0)).float().mean()) > 0.999
    assert float((found != plain).float().mean()) > 0.01


@pytest.mark.parametrize(("overlap", "count"), [(0.0, 3), (0.25, 3), (0.5, 4), (0.9, 12)])
def test_neighboring_windows_overlap_as_wanted(overlap: float, count: int) -> None:
    starts = [left for _, left in window_corners((32, 100), (32, 48), overlap)]
    assert len(starts) == count
    assert max(b - a for a, b in pairwise(starts)) <= math.ceil(48 * (1 - overlap))
    assert (starts[0], starts[-1]) == (0, 52)
