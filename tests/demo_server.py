"""Tiny models, and their pages on a port of this machine, for tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eomt.demo.models import Models
from eomt.demo.serve import server
from eomt.lora import LoRAConfig, apply_lora
from eomt.lora.layers import lora_layers
from eomt.predictors.of_tasks import EoMTScorer
from eomt.predictors.predictor import Predictor
from eomt.predictors.prompted import PromptedPredictor
from eomt.predictors.segmentation import SegmentationPredictor
from tests.tiny import make_eomt
from tests.tiny_sam2 import make_sam2

CPU = torch.device("cpu")
CLASSES = ("road", "<b>car</b>", "sky")


def adapted(network: nn.Module, std: float = 0.5, **arguments: Any) -> nn.Module:
    """A network whose adapters change its answers."""
    given = {"rank": 4, "target_modules": ["attention", "mlp"], "freeze_base_model": True} | arguments
    apply_lora(network, LoRAConfig(**given))
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_b, std=std)
    return network.eval()


def segmentation_models() -> Models:
    """An EoMT with adapters."""

    def predictor(network: nn.Module) -> Predictor[Any]:
        return SegmentationPredictor(EoMTScorer(network), CLASSES, CPU)  # type: ignore[arg-type]

    return Models(adapted(make_eomt(num_classes=3)), predictor, "trained")


def prompted_models(**arguments: Any) -> Models:
    """A SAM 2 with adapters."""

    def predictor(network: nn.Module) -> Predictor[Any]:
        return PromptedPredictor(network, [], CPU)  # type: ignore[arg-type]

    return Models(adapted(make_sam2(**arguments), std=0.1), predictor, "trained")


@contextmanager
def running(models: Models) -> Iterator[str]:
    """The page of a model in a thread; its address."""
    with server(models, "127.0.0.1", 0) as (found, bound, address):
        thread = threading.Thread(target=found.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield address
        finally:
            found.should_exit = True
            thread.join()


def picture(folder: Path, name: str = "street.png") -> Path:
    """A file with an image of 32 x 48 pixels."""
    import numpy as np
    from PIL import Image

    path = folder / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(path)
    return path
