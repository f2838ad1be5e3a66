"""A task of each kind with random weights, in the size of the smallest networks in use, or tiny to warm up."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from eomt.lora.config import LoRAConfig
from eomt.models import SAM2, DeterministicVQA, EoMT, MAEEncoder, MaskedAutoencoder, MorphDetector, ViT
from eomt.models.memory import Memory
from eomt.models.sam2 import default_lora
from eomt.tasks import (
    MaskedAutoencoding,
    MorphDetection,
    PromptedSegmentation,
    SemanticSegmentation,
    VisualQuestionAnswering,
)
from eomt.tasks.base import AdaptationTask

PIXELS, TINY_PIXELS, CLASSES, QUERIES = 224, 64, 19, 100
SAM2_PIXELS, SAM2_TINY_PIXELS = 384, 128
HEADS = ["q", "class_head", "mask_head", "upscale"]
VIT_S: dict[str, int] = {"hidden_size": 384, "num_heads": 6}
DECODER: dict[str, int] = {"decoder_hidden_size": 256, "decoder_num_heads": 8}


class Case(NamedTuple):
    """A task and a way to train it.

    Attributes:
        build: Makes the task from what it adapts, `memory`, and whether it is tiny.
        lora: What is adapted; None for full fine-tuning.
        batch_size: Samples of a step.
    """

    build: Callable[[LoRAConfig | None, Memory, bool], AdaptationTask]
    lora: LoRAConfig | None
    batch_size: int


def eomt(lora: LoRAConfig | None, memory: Memory, tiny: bool) -> AdaptationTask:
    """Return EoMT on a ViT-S/16."""
    pixels = TINY_PIXELS if tiny else PIXELS
    encoder = ViT("test_vit" if tiny else "vit_small_patch16_224", (pixels, pixels), pretrained=False)
    return SemanticSegmentation(EoMT(encoder, CLASSES, QUERIES, 2 if tiny else 4), lora, memory=memory)


def sam2(lora: LoRAConfig | None, memory: Memory, tiny: bool) -> AdaptationTask:
    """Return SAM 2 with a Hiera-T."""
    pixels = SAM2_TINY_PIXELS if tiny else SAM2_PIXELS
    return PromptedSegmentation(SAM2(False, "tiny", (pixels, pixels)), lora, memory=memory)


def morphs(lora: LoRAConfig | None, memory: Memory, tiny: bool) -> AdaptationTask:
    """Return morph detection on an encoder in the size of ViT-S/16."""
    pixels = TINY_PIXELS if tiny else PIXELS
    encoder = MAEEncoder(False, (pixels, pixels), depth=2 if tiny else 12, **VIT_S)
    return MorphDetection(MorphDetector(encoder), lora, memory=memory)


def pre_training(lora: LoRAConfig | None, memory: Memory, tiny: bool) -> AdaptationTask:
    """Return masked autoencoding with an encoder in the size of ViT-S/16."""
    pixels = TINY_PIXELS if tiny else PIXELS
    sizes: dict[str, Any] = {"depth": 2 if tiny else 12} | VIT_S | DECODER
    return MaskedAutoencoding(MaskedAutoencoder(False, (pixels, pixels), **sizes), lora, memory=memory)


def questions(lora: LoRAConfig | None, memory: Memory, tiny: bool) -> AdaptationTask:
    """Return question answering with a DINOv2 in the size of ViT-S/14 and a BART of its width."""
    layers, pixels = (1, 56) if tiny else (6, PIXELS)
    vision = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 2 * layers}
    text = {
        "model_type": "bart", "d_model": 384, "encoder_layers": layers, "decoder_layers": layers,
        "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536,
        "vocab_size": 20_000,
    }  # fmt: skip
    network = DeterministicVQA(vision | {"patch_size": 14}, text, pretrained=False, img_size=(pixels, pixels))
    return VisualQuestionAnswering(network, lora, memory=memory)


def adapt(targets: list[str], trained: list[str] | None = None, **settings: Any) -> LoRAConfig:
    """Return rank 8 on some modules, with all else frozen but the modules to train."""
    return LoRAConfig(target_modules=targets, trainable_modules=trained or [], freeze_base_model=True, **settings)


CASES: dict[str, Case] = {
    "EoMT, LoRA on attention + MLP": Case(eomt, adapt(["attention", "mlp"], HEADS), 4),
    "EoMT, heads only (frozen encoder)": Case(eomt, adapt([], HEADS, enabled=False), 4),
    "EoMT, full fine-tuning": Case(eomt, None, 4),
    "SAM 2, LoRA of its configuration": Case(sam2, default_lora(), 2),
    "SAM 2, full fine-tuning": Case(sam2, None, 2),
    "morph detection, LoRA on q, k, v": Case(morphs, adapt(["query", "key", "value"], ["classifier"]), 8),
    "morph detection, LoRA on attention + MLP": Case(morphs, adapt(["attention", "mlp"], ["classifier"]), 8),
    "MAE pre-training, in full": Case(pre_training, None, 8),
    "MAE pre-training, LoRA on attention + MLP": Case(pre_training, adapt(["attention", "mlp"]), 8),
    "VQA, LoRA on q, k, v of all": Case(
        questions, adapt(["query", "key", "value"], exclude_modules=["text_model.model.encoder", "fusion"]), 8
    ),
    "VQA, full fine-tuning": Case(questions, None, 4),
}


def make_task(case: str, memory: Memory, tiny: bool = False) -> AdaptationTask:
    """Return the task of one of `CASES`."""
    torch.manual_seed(0)
    build, lora, _ = CASES[case]
    return build(lora, memory, tiny)
