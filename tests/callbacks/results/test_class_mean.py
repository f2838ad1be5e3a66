"""The rival of a classifier: the class whose mean of the base's features is nearest."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import callbacks.results.classification as module
from callbacks.results.classification import ClassificationResults, class_mean_figures
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import lora_layers
from eomt.models import ImageClassifier
from eomt.tasks import ImageClassification
from tests.tiny_classification import enlarge, make_classifier

SPLITS = {"train": 30, "val": 24, "test": 27}


class Noise:
    """Images without anything that tells their classes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = {
            split: torch.randint(0, 256, (number, 3, 16, 16), dtype=torch.uint8, generator=generator)
            for split, number in SPLITS.items()
        }
        self.labels = {split: torch.randint(0, 3, (number,), generator=generator) for split, number in SPLITS.items()}

    def is_multi_label(self) -> bool:
        return False

    def label_counts(self) -> list[int]:
        return [int((self.labels["train"] == label).sum()) for label in range(3)]

    def plain_images(self, split: str, most: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.images[split]), 7):
            yield self.images[split][start : start + 7], self.labels[split][start : start + 7]


def by_hand(network: ImageClassifier, data: Noise, split: str) -> float:
    with torch.no_grad():
        known = normalize(network.eval().features(data.images["train"]), dim=1)
        asked = normalize(network.features(data.images[split]), dim=1)
    means = torch.stack([known[data.labels["train"] == label].mean(0) for label in range(3)])
    right = [int((normalize(means, dim=1) @ row).argmax()) == label for row, label in
             zip(asked, data.labels[split].tolist(), strict=True)]  # fmt: skip
    return sum(right) / len(right)


def plain() -> ImageClassifier:
    return enlarge(make_classifier())  # type: ignore[return-value]


def test_the_figures_are_those_of_the_split_that_is_asked_for() -> None:
    network, data = plain(), Noise()
    found = {split: class_mean_figures(network, data, split)["class_mean_accuracy"] for split in ("val", "test")}
    assert found == {split: pytest.approx(by_hand(network, data, split)) for split in found}
    assert found["val"] != found["test"]


def test_a_test_is_compared_with_the_base_without_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    data, network = Noise(), plain()
    expected = by_hand(network, data, "test")
    config = LoRAConfig(rank=2, target_modules=["attention", "mlp"], freeze_base_model=True)
    task = ImageClassification(network, config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_b" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    assert by_hand(network, data, "test") != expected
    monkeypatch.setattr(module, "data_of", lambda trainer: data)
    monkeypatch.setattr(module, "is_trial", lambda trainer: False)
    trainer: Any = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=lambda found: found))
    callback = ClassificationResults()
    callback.on_test_start(trainer, task)
    assert task.rival_figures["class_mean_accuracy"] == pytest.approx(expected)
    # a network that is trained in full holds it no more, and what an earlier evaluation measured is not taken for it
    whole = ImageClassification(make_classifier(), None)
    callback.on_test_start(trainer, whole)
    assert whole.rival_figures == {}
    silent = ClassificationResults(class_mean=False)
    silent.on_test_start(trainer, task)
    assert task.rival_figures == {}


def test_adapters_are_as_they_were_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    network = plain()
    apply_lora(network, LoRAConfig(rank=2, target_modules=["attention"], freeze_base_model=True))
    task = ImageClassification(network, None)
    monkeypatch.setattr(module, "data_of", lambda trainer: Noise())
    monkeypatch.setattr(module, "is_trial", lambda trainer: False)
    trainer: Any = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=lambda found: found))
    ClassificationResults().on_test_start(trainer, task)
    assert all(layer.adapter_enabled for layer in lora_layers(network).values())
