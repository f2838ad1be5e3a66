"""Features of frozen parts in a fit: the same training, with each image encoded once."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from datamodules import ImageMaskFolder, MorphFaces, Severstal
from eomt.app.trainer import Trainer
from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.models.frozen_features import FeatureCache
from eomt.tasks import SemanticSegmentation
from tests.tiny import make_eomt

HEADS = LoRAConfig(enabled=False, trainable_modules=["q", "class_head", "mask_head", "upscale"], freeze_base_model=True)


# that of the last fit, before its end
caches: list[FeatureCache | None] = []


class Batches(IterableDataset[dict[str, Any]]):
    """Four batches of two images each epoch: the same ones, or never the same twice."""

    def __init__(self, task: SemanticSegmentation, again: bool) -> None:
        self.batch = task.synthetic_batch(2)
        self.again = again
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.epoch += not self.again
        for index in range(4):
            yield self.batch | {"image": self.batch["image"].roll(1 + index + 4 * self.epoch, -1)}


def fit(again: bool = True, epochs: int = 3, **arguments: Any) -> tuple[SemanticSegmentation, list[int]]:
    """A trained task, and how many images each call of the first block was given."""
    torch.manual_seed(0)
    task = SemanticSegmentation(make_eomt(num_blocks=1), HEADS, num_points=64, **arguments)
    seen: list[int] = []
    task.network.encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    caches.clear()
    task.on_train_end = lambda: caches.append(task.network.feature_cache)  # type: ignore[method-assign]
    trainer = Trainer(
        accelerator="cpu", logger=False, max_epochs=epochs, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    batches = DataLoader(Batches(task, again), batch_size=None)
    trainer.fit(task, batches, DataLoader([task.synthetic_batch(2)], batch_size=None))
    return task, seen


def test_a_training_is_the_same_and_encodes_each_image_once(tmp_path: Path) -> None:
    plain, of_plain = fit(feature_cache=0.0)
    assert sum(of_plain) == 3 * (4 * 2 + 2) + 2
    for arguments in ({}, {"feature_cache": 0.0, "feature_folder": tmp_path}):
        kept, seen = fit(**arguments)
        assert sum(seen) == 4 * 2 + 2
        for name, value in plain.network.state_dict().items():
            torch.testing.assert_close(kept.network.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    # a later run finds them all
    assert sum(fit(feature_folder=tmp_path)[1]) == 0


def test_images_that_never_come_again_are_not_kept_for_long(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eomt"):
        fit(again=False)
    assert caplog.text.count("Training images differ each time") == 1
    (cache,) = caches
    assert cache is not None
    # those of validation alone
    assert (len(cache), cache.asked, cache.found) == (2, 16, 0)


def test_a_second_run_starts_with_nothing() -> None:
    task, seen = fit(epochs=1)
    seen.clear()
    task.network.encoder.blocks[0].mlp.fc1.weight.data.mul_(-1)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.validate(task, DataLoader([task.synthetic_batch(2)], batch_size=None), verbose=False)
    assert seen == [2]


@pytest.mark.parametrize("limit", [-1.0, float("inf"), float("nan")])
def test_an_impossible_limit_is_refused(limit: float) -> None:
    with pytest.raises(UserError, match=r"feature_cache: .*; must be at least 0"):
        SemanticSegmentation(make_eomt(), HEADS, feature_cache=limit)


def test_data_say_whether_training_images_come_again(tmp_path: Path) -> None:
    def folder(**arguments: Any) -> bool:
        return ImageMaskFolder(tmp_path, **arguments).repeats_images

    assert not folder()
    assert folder(augment=False)
    assert not folder(scale_range=(1.0, 1.0))
    assert folder(scale_range=(1.0, 1.0), color_jitter=False)
    assert not folder(augment=False, outliers=tmp_path)
    assert [Severstal(tmp_path, augment=way).repeats_images for way in (True, "mirror", False)] == [False, True, True]
    assert [MorphFaces(tmp_path, augment=way).repeats_images for way in (True, False)] == [False, True]


def test_nothing_is_kept_after_a_run() -> None:
    task, _ = fit(epochs=1)
    assert task.network.feature_cache is None
    assert task.network.encoder.feature_cache is None
