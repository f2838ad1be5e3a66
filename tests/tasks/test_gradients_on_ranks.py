"""Gradients of whole tasks on two processes; losses that count something are in tests/losses/test_ranks.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eomt.lora.config import LoRAConfig
from eomt.models.mae import MaskedAutoencoder
from eomt.tasks import ImageClassification, MaskedAutoencoding, MorphDetection
from eomt.tasks.base import AdaptationTask
from tests.ranks import on_two_ranks
from tests.tiny_classification import make_classifier
from tests.tiny_morph import make_detector, make_mae

pytestmark = pytest.mark.slow

IMAGES = 6
LORA: dict[str, Any] = {"rank": 2, "lora_dropout": 0.0, "freeze_base_model": True}
ATTENTION = {"target_modules": ["attention"]}


class FixedMasks(MaskedAutoencoder):
    """Draws the mask of an image by its number, on whatever process that is."""

    first = 0

    def _noise(self, batch: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        numbers = range(self.first, self.first + batch)
        return torch.cat([super(FixedMasks, self)._noise(1, device, torch.Generator().manual_seed(i)) for i in numbers])


def autoencoding(**arguments: Any) -> MaskedAutoencoding:
    network = make_mae(**arguments)
    network.__class__ = FixedMasks
    exclude = {"exclude_modules": ["decoder"], "trainable_modules": ["decoder"]}
    return MaskedAutoencoding(network, LoRAConfig(**LORA, **ATTENTION, **exclude))


def detection(network: dict[str, Any] | None = None, **arguments: Any) -> MorphDetection:
    trained = LoRAConfig(**LORA, target_modules=["query", "value"], trainable_modules=["classifier"])
    return MorphDetection(make_detector(**(network or {})), trained, **arguments)


def classification(several: bool = False, **arguments: Any) -> ImageClassification:
    network = make_classifier(multi_label=several)
    return ImageClassification(network, LoRAConfig(**LORA, **ATTENTION), **arguments)


TASKS: dict[str, Callable[[], AdaptationTask]] = {
    "random masks": autoencoding,
    "masks in blocks": lambda: autoencoding(masking="block", norm_pix_loss=False),
    "weighed faces": lambda: detection(class_weights=[1.0, 3.0]),
    "weighed faces, bce": lambda: detection(class_weights=[2.0, 0.5], loss="bce"),
    "faces, cosface": lambda: detection({"head": "cosine", "proj_dim": 8}, loss="cosface"),
    "weighed classes": lambda: classification(class_weights=[1.0, 2.0, 4.0], label_smoothing=0.1),
    "several labels": lambda: classification(several=True, class_weights=[1.0, 2.0, 4.0]),
}


def gradients_of(images: slice) -> dict[str, dict[str, Tensor]]:
    """Return losses and gradients of some of the images, whose labels differ from one half to the other."""
    found = {}
    for name, make in TASKS.items():
        torch.manual_seed(0)
        task = make().train()
        # B of an adapter is 0 before the first step, and A has no gradient then
        for parameter in task.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        batch = task.synthetic_batch(IMAGES)
        if batch.get("label") is not None and batch["label"].ndim == 1:
            batch["label"] = torch.tensor([0, 0, 1, 1, 1, 1])
        task.network.first = images.start  # type: ignore[assignment]
        loss = task.losses({key: value[images] for key, value in batch.items()})[0]["loss"]
        loss.backward()
        gradients = {key: value.grad for key, value in task.named_parameters() if value.grad is not None}
        found[name] = {"loss": loss.detach()} | gradients
    return found


def of_rank(rank: int) -> dict[str, dict[str, Tensor]]:
    half = IMAGES // 2
    return gradients_of(slice(half * rank, half * (rank + 1)))


def test_two_processes_have_the_gradients_of_one_with_both_batches(tmp_path: Path) -> None:
    ranks = on_two_ranks(of_rank, tmp_path, is_fresh=True)
    for task, whole in gradients_of(slice(0, IMAGES)).items():
        first, second = (found[task] for found in ranks)
        assert first.keys() == second.keys() == whole.keys()
        # the halves differ, or equal gradients would show nothing
        assert any(not torch.allclose(first[name], second[name], rtol=0.1) for name in whole)
        for name, value in whole.items():
            # data-parallel training takes the mean
            mean = (first[name] + second[name]) / 2
            error = (mean - value).abs().max() / value.abs().max().clamp(min=1e-6)
            assert error < 1e-4, f"{task}, {name}: {error}"
