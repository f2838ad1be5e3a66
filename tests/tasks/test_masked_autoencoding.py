"""Masked autoencoding: the ratio, the learning rate of the batch, masks that repeat, padding, a loss that falls."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.tasks import MaskedAutoencoding
from tests.tiny_morph import make_detector, make_image, make_mae

LORA = LoRAConfig(rank=2, target_modules=["attention"], freeze_base_model=True, trainable_modules=["decoder"])


def make_task(lora: LoRAConfig | None = None, **arguments: Any) -> MaskedAutoencoding:
    torch.manual_seed(0)
    return MaskedAutoencoding(make_mae(), lora, **arguments)


def make_batch(size: int = 4) -> dict[str, Any]:
    return {"image": make_image(size), "name": [f"{index}.png" for index in range(size)]}


def validation_loss(task: MaskedAutoencoding, batches: list[dict[str, Any]]) -> float:
    task.eval()
    task.evaluation_loss.reset()
    with torch.no_grad():
        for index, batch in enumerate(batches):
            task.validation_step(batch, index)
    return float(task.evaluation_loss.compute())


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_ratio_of_the_task_beats_the_networks(ratio: float) -> None:
    _, prediction = make_task(mask_ratio=ratio).losses(make_batch())
    assert prediction.mask.mean() == ratio
    assert make_task().losses(make_batch())[1].mask.mean() == 0.75


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_ratio_that_masks_nothing_or_everything_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="mask_ratio"):
        make_task(mask_ratio=ratio)


def test_another_network_or_rate_is_refused() -> None:
    with pytest.raises(UserError, match="MaskedAutoencoding takes"):
        MaskedAutoencoding(make_detector())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="base_lr: -1"):
        make_task(base_lr=-1)


@pytest.mark.parametrize(("batch_size", "accumulated", "processes"), [(256, 1, 1), (64, 2, 1), (64, 4, 2)])
def test_the_learning_rate_follows_the_effective_batch(batch_size: int, accumulated: int, processes: int) -> None:
    task = make_task(base_lr=1e-3)
    trainer: Any = SimpleNamespace(
        datamodule=SimpleNamespace(batch_size=batch_size), accumulate_grad_batches=accumulated,
        world_size=processes, estimated_stepping_batches=10,
    )  # fmt: skip
    task._trainer = trainer
    for _ in range(2):
        # asked again, the rate is not multiplied again
        optimizer: Any = task.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        assert group["initial_lr"] == pytest.approx(1e-3 * batch_size * accumulated * processes / 256)
        assert group["betas"] == (0.9, 0.95)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05, 0.0}


def test_masks_of_validation_repeat_and_leave_chance_alone() -> None:
    task, batches = make_task(), [make_batch(), make_batch()]
    first = validation_loss(task, batches)
    state = torch.get_rng_state()
    assert validation_loss(task, batches) == first
    assert torch.equal(torch.get_rng_state(), state)
    others = batches[0] | {"name": [f"other {name}" for name in batches[0]["name"]]}
    masks = [task.rebuild(batch).masked for batch in (batches[0], batches[0], others)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("masking", ["random", "block"])
def test_the_figure_of_validation_is_the_same_in_any_batches(masking: str) -> None:
    """16.10: 1.0280 in one batch size, 1.0288 in another; a mask belongs to its image."""
    task, batch = make_task(), make_batch(6)
    task.network.masking = masking  # type: ignore[assignment]
    whole = validation_loss(task, [batch])
    for parts in ([[0, 1], [2, 3], [4, 5]], [[5], [4, 0, 2], [1, 3]]):
        cut = [{"image": batch["image"][part], "name": [batch["name"][i] for i in part]} for part in parts]
        assert validation_loss(task, cut) == pytest.approx(whole, rel=1e-6)


def test_padding_does_not_count() -> None:
    task, batch = make_task(), make_batch()
    padded = batch | {"name": [*batch["name"][:3], ""], "image": batch["image"].clone()}
    padded["image"][3] = 0
    whole = validation_loss(task, [padded])
    padded["image"][3] = 255
    assert validation_loss(task, [padded]) == whole
    assert validation_loss(task, [padded, batch | {"name": [""] * 4}]) == whole


def test_the_mean_is_over_images_not_batches() -> None:
    task, batch = make_task(), make_batch(4)
    parts = [{"image": batch["image"][:1], "name": ["a"]}, {"image": batch["image"][1:], "name": ["b", "c", "d"]}]
    apart = [validation_loss(task, [part]) for part in parts]
    task.evaluation_loss.reset()
    with torch.no_grad():
        for part in parts:
            task.validation_step(part, 0)
    assert float(task.evaluation_loss.compute()) == pytest.approx((apart[0] + 3 * apart[1]) / 4)


@pytest.mark.parametrize("lora", [None, LORA])
def test_everything_that_is_trained_learns(lora: LoRAConfig | None) -> None:
    task = make_task(lora)
    assert task.audit(task.synthetic_batch(2)).faults == ()


def test_from_scratch_the_loss_falls() -> None:
    task = make_task(mask_ratio=0.5)
    # one colour each: what is hidden follows from what is seen
    colors = torch.randint(0, 256, (8, 3, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = {"image": colors.expand(8, 3, 32, 32), "name": list("abcdefgh")}
    task.network.norm_pix_loss = False
    before = validation_loss(task, [batch])
    optimizer = torch.optim.AdamW([p for p in task.network.parameters() if p.requires_grad], 3e-3)
    task.train()
    for _ in range(60):
        optimizer.zero_grad()
        task.losses(batch)[0]["loss"].backward()
        optimizer.step()
    assert validation_loss(task, [batch]) < 0.5 * before


def test_there_is_nothing_to_test() -> None:
    with pytest.raises(UserError, match="use validate"):
        make_task().test_step(make_batch(), 0)
