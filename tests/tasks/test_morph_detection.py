"""Morph detection: losses and heads that fit, a threshold that travels, figures that depend on nothing but scores."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from callbacks.results.morphs import ScoredFace, error_curves, glowing
from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.lora.files import load_adapter, save_adapter
from eomt.metrics.error_rates import error_curve, threshold_at_eer
from eomt.models.mixstyle import MixStyle
from eomt.models.parts.processable import can_be_processed
from eomt.results import MorphResult
from eomt.tasks import MorphDetection
from eomt.tasks.morph_detection import rounded_up
from eomt.verification.merging import fill_from_merged, merged_copy, write_merged
from tests.tiny_morph import enlarge_weights, make_detector, make_encoder, make_image, make_mae

LORA: dict[str, Any] = {"rank": 2, "target_modules": ["query", "key", "value"], "freeze_base_model": True}


def make_task(lora: bool = True, network: dict[str, Any] | None = None, **arguments: Any) -> MorphDetection:
    torch.manual_seed(0)
    config = LoRAConfig(**LORA, trainable_modules=["classifier"]) if lora else None
    return MorphDetection(make_detector(make_encoder(depth=3), **(network or {})), config, **arguments)


def make_batch(size: int = 6) -> dict[str, Any]:
    label = torch.arange(size) % 2
    return {
        "image": make_image(size),
        "label": label,
        "attack": ["blend" if morph else "" for morph in label.tolist()],
        "dataset": ["faces"] * size,
        "name": [f"{index}.png" for index in range(size)],
    }


def part(batch: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    return {
        key: value[chosen] if isinstance(value, torch.Tensor) else [value[i] for i in chosen]
        for key, value in batch.items()
    }


def logged(task: MorphDetection, fn: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the end of a validation logs in that command."""
    found: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: found.__setitem__(name, float(value)))
    task._trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))  # type: ignore[assignment]
    task.on_validation_epoch_end()
    return found


@pytest.mark.parametrize(
    ("lora", "network", "arguments"),
    [
        (True, {}, {}),
        (True, {"head": "mlp", "cls_hidden_dim": 8}, {"loss": "bce", "class_weights": [1.0, 2.0]}),
        (True, {"head": "cosine"}, {"loss": "cosface"}),
        (False, {"mixstyle": MixStyle(1.0, 0.5, "same_class")}, {}),
    ],
)
def test_everything_that_is_trained_learns(lora: bool, network: dict[str, Any], arguments: dict[str, Any]) -> None:
    task = make_task(lora, network, **arguments)
    assert task.audit(task.synthetic_batch(4)).faults == ()
    assert math.isnan(task.threshold)


def test_cosface_needs_cosines_and_takes_their_scale() -> None:
    with pytest.raises(UserError, match=r"loss: cosface, but head: linear; set --model\.network\.head cosine"):
        make_task(loss="cosface")
    assert make_task(network={"head": "cosine", "scale": 20.0}, loss="cosface").criterion.scale == 20.0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="MorphDetection takes"):
        MorphDetection(make_mae())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="class_weights"):
        make_task(class_weights=[1.0, 0.0])


@pytest.mark.parametrize(("balanced", "weights", "warned"), [(True, [1, 3], 1), (False, [1, 3], 0), (True, [1, 1], 0)])
def test_balancing_twice_is_warned_of(
    balanced: bool, weights: list[float], warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(class_weights=weights)
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(balanced=balanced))  # type: ignore[assignment]
    task.on_fit_start()
    assert len(caplog.records) == warned


def test_class_weights_weigh_the_training_loss_alone() -> None:
    batch = make_batch()
    plain, weighted = make_task(), make_task(class_weights=[1.0, 9.0])
    assert not torch.allclose(plain.losses(batch)[0]["loss"], weighted.losses(batch)[0]["loss"])
    for task in (plain, weighted):
        task.eval()
        task.validation_step(batch, 0)
    assert torch.equal(plain.evaluation_loss.compute(), weighted.evaluation_loss.compute())


@pytest.mark.parametrize("is_baseline", [False, True])
def test_a_validation_of_one_class_stops_a_fit(is_baseline: bool) -> None:
    """15.18: val_eer was nan in all of a run, which then wrote no adapter; at step 0, not after the first epoch."""
    task = make_task()
    batch = make_batch()
    photos = [index for index, label in enumerate(batch["label"].tolist()) if not label]
    part = {"image": batch["image"][photos], "label": batch["label"][photos]}
    part |= {key: [batch[key][index] for index in photos] for key in ("attack", "dataset", "name")}
    task._trainer = SimpleNamespace(  # type: ignore[assignment]
        sanity_checking=is_baseline, num_sanity_val_steps=math.inf, fast_dev_run=0, state=SimpleNamespace(fn="fit")
    )
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    task.eval()
    task.validation_step(part, 0)
    with pytest.raises(UserError, match=rf"val_eer: validation saw {len(photos)} bona fide images and 0 morphs"):
        task.on_validation_epoch_end()
    # a sanity check of a few batches, as Lightning's own, says nothing
    task.trainer.sanity_checking, task.trainer.num_sanity_val_steps = True, 2  # type: ignore[assignment]
    task.validation_step(part, 0)
    task.on_validation_epoch_end()


@torch.no_grad()
def test_figures_do_not_depend_on_batches_order_or_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()
    padding = make_batch(2) | {"name": ["", ""]}
    found = []
    for batches in ([batch], [part(batch, [4, 1]), part(batch, [0, 5, 3]), part(batch, [2]), padding]):
        task = make_task().eval()
        enlarge_weights(task.network)
        for index, given in enumerate(batches):
            task.validation_step(given, index)
        found.append(logged(task, "fit", monkeypatch) | {"threshold": task.threshold})
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert {"val_eer", "val_auroc", "val_accuracy", "val_f1", "val_loss"} <= set(found[0])


@torch.no_grad()
def test_a_fit_fixes_the_threshold_and_validate_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = make_task().eval(), make_batch()
    enlarge_weights(task.network)
    scores = task.validation_step(batch, 0)["scores"]
    logged(task, "validate", monkeypatch)
    assert math.isnan(task.threshold)
    task.validation_step(batch, 0)
    logged(task, "fit", monkeypatch)
    wanted = threshold_at_eer(scores.double().numpy(), batch["label"].numpy())
    assert np.array_equal(scores.numpy() >= task.threshold, scores.numpy() >= wanted)


def test_a_threshold_in_fp32_parts_neighbouring_scores_as_in_fp64() -> None:
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    threshold = (float(low) + float(high)) / 2
    # rounding to even would take one of the two neighbours for some pairs
    # rounding to even would take the lower of the two for some of these pairs
    for _ in range(3):
        rounded = rounded_up(threshold)
        assert float(low) < rounded <= float(high)
        low, high = high, np.nextafter(high, np.float32(1))
        threshold = (float(low) + float(high)) / 2
    assert math.isnan(rounded_up(float("nan")))


def test_the_threshold_travels_in_all_forms(tmp_path: Path) -> None:
    task = make_task()
    enlarge_weights(task.network)
    task.network.get_buffer("threshold").fill_(0.25)
    checkpoint: dict[str, Any] = {}
    task.on_save_checkpoint(checkpoint)
    assert not [name for name in checkpoint["state_dict"] if "patch_embeddings" in name]
    save_adapter(task.network, tmp_path / "adapter")
    merged, _, difference = merged_copy(task.network, make_batch(), task.outputs)
    assert difference < 1e-4
    write_merged(merged, tmp_path / "merged", None)

    from_checkpoint, from_adapter, plain = make_task(), make_task(), make_task(lora=False)
    from_checkpoint.load_state_dict(checkpoint["state_dict"])
    # the same base, as a fit's own would be
    for other in (from_checkpoint, from_adapter):
        adapted = set(checkpoint["state_dict"])
        for name, value in task.network.state_dict().items():
            if f"network.{name}" not in adapted:
                other.network.state_dict()[name].copy_(value)
    load_adapter(from_adapter.network, tmp_path / "adapter", check_base=False)
    fill_from_merged(plain.network, tmp_path / "merged")
    image = make_image()
    for other in (from_checkpoint, from_adapter, plain):
        assert other.threshold == 0.25
        torch.testing.assert_close(other.eval().network(image).logits, task.eval().network(image).logits)


def test_a_merged_file_of_another_size_is_refused(tmp_path: Path) -> None:
    write_merged(make_task(lora=False).network, tmp_path / "merged", None)
    file = tmp_path / "merged" / "model.safetensors"
    state = load_file(file)
    (name,) = (name for name in state if name.endswith("position_embeddings"))
    save_file(state | {name: state[name][:, :5].contiguous()}, file)
    with pytest.raises(UserError, match=r"position_embeddings' has shape \[1, 5, 32\]; this network's has"):
        fill_from_merged(make_task(lora=False).network, tmp_path / "merged")


def test_prediction_gives_scores_and_attention_if_asked() -> None:
    batch = make_batch(2)
    task = make_task(rollout=True).eval()
    with torch.no_grad():
        answer = task.predict_step(batch, 0)
        assert torch.equal(answer["scores"], task.network.scores(batch["image"]))
        assert set(make_task().predict_step(batch, 0)) == {"scores", "processed"}
    assert answer["rollout"].shape == (2, 4, 4)


def test_images_that_show_nothing_cannot_be_processed() -> None:
    """15.20: a black or noise image is called a morph."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 200, 64).expand(3, 64, 64)
    noise = torch.randint(0, 256, (3, 64, 64), generator=generator).float()
    # a tile of 8 x 8 pixels has 16 of its cells: a sixteenth of the variance is left in its mean
    coarse = torch.randint(0, 256, (3, 32, 32), generator=generator).float().repeat_interleave(2, 1)
    images = [torch.zeros(3, 64, 64), torch.full((3, 64, 64), 255.0), torch.zeros(3, 64, 64) + 2 * noise / 255]
    images += [noise, coarse.repeat_interleave(2, 2), ramp, (ramp + noise / 10).clamp(0, 255), ramp.mT / 5]
    batch = torch.stack(images).to(torch.uint8)
    expected = [False] * 5 + [True] * 3
    assert can_be_processed(batch).tolist() == expected
    assert can_be_processed(batch.float() / 255).tolist() == expected


@pytest.mark.parametrize("threshold_at", ["eer", "macer 10", "bscer 20"])
def test_validation_chooses_the_threshold_of_the_operating_point(threshold_at: str) -> None:
    """15.20: the threshold of an operating point, used by test."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    scores = np.clip(random.normal(0.4 + 0.2 * labels, 0.2), 0, 1).astype(np.float32)
    task = make_task(threshold_at=threshold_at)
    task._trainer = SimpleNamespace(  # type: ignore[assignment]
        sanity_checking=False, fast_dev_run=0, state=SimpleNamespace(fn="fit")
    )
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    named = ["a" if label else "" for label in labels], ["d"] * 40, [f"{index}" for index in range(40)]
    for metric in (task.val_metric, task.test_metric):
        metric.update(torch.from_numpy(scores), torch.from_numpy(labels), *named)
    task.evaluation_loss.update(0.0)
    task.on_validation_epoch_end()
    task.on_test_epoch_start()
    figures = task.test_metric.compute()
    if threshold_at == "eer":
        assert (figures["macer"] + figures["bscer"]) / 2 == pytest.approx(figures["eer"])
    elif threshold_at == "macer 10":
        assert figures["macer"] <= 0.1
        assert figures["bscer"] == pytest.approx(figures["bscer_at_macer_10"])
    else:
        assert figures["bscer"] <= 0.2
        assert figures["macer"] == pytest.approx(figures["macer_at_bscer_20"])


@pytest.mark.parametrize(
    "threshold_at", ["macer", "macer five", "eer 5", "fpr 5", "macer 100", "bscer -1", "macer nan"]
)
def test_what_is_no_operating_point_is_refused(threshold_at: str) -> None:
    """15.20: by name."""
    with pytest.raises(UserError, match=r"threshold_at: .*; must be eer, or a rate"):
        make_task(threshold_at=threshold_at)


def test_decisions_are_those_of_the_threshold() -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    decisions = [MorphResult(image, score, 0.5).decision for score in (0.49, 0.5, 0.51)]
    assert decisions == ["bonafide", "morph", "morph"]
    assert MorphResult(image, 0.9).decision == ""
    assert MorphResult(image, 0.9, 0.5, processed=False).decision == "failed to process"


def test_each_attack_has_its_curve_against_all_bona_fide_images() -> None:
    rows = [ScoredFace(f"{i}", attack, label, score, "faces") for i, (attack, label, score) in enumerate(
        [("", 0, 0.1), ("", 0, 0.6), ("blend", 1, 0.5), ("warp", 1, 0.7), ("warp", 1, 0.3)]
    )]  # fmt: skip
    curves = error_curves([*rows, ScoredFace("x", "", 0, 0.2, "bona fide alone")])
    assert list(curves) == ["faces", "faces: blend", "faces: warp"]
    _, macer, bscer = error_curve(np.array([0.1, 0.6, 0.7, 0.3]), np.array([0, 0, 1, 1]))
    for found, wanted in zip(curves["faces: warp"], (macer, bscer), strict=True):
        assert np.array_equal(found, wanted)


def test_a_picture_glows_where_attention_is() -> None:
    image = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    rollout = torch.zeros(4, 4)
    rollout[0, 3] = 1
    drawn = glowing(image, rollout).float()
    assert drawn[0, 4, 28] > drawn[0, 28, 4] + 50
    assert glowing(image, torch.zeros(4, 4)).unique().numel() == 1


def test_a_merged_file_brings_its_own_positions(tmp_path: Path) -> None:
    task = make_task(lora=False)
    task.network.encoder.model.embeddings.position_embeddings.data += 1
    write_merged(task.network, tmp_path / "merged", None)
    plain = make_task(lora=False)
    fill_from_merged(plain.network, tmp_path / "merged")
    for name, value in task.network.state_dict().items():
        torch.testing.assert_close(plain.network.state_dict()[name], value, equal_nan=True)
