"""Tiny models of transformers with adapters of PEFT, for tests of the audit."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification, ViTModel

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = ViTConfig(**SIZES, image_size=16, patch_size=8, num_labels=3)
LLAMA = LlamaConfig(**SIZES, vocab_size=40, tie_word_embeddings=False)


def images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(3, 3, 16, 16, generator=generator), "labels": torch.tensor([0, 1, 2])}


def texts() -> dict[str, Tensor]:
    ids = torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids}


def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(VIT)


def llama(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA.to_dict(), **settings}))


def adapted(model: nn.Module, **settings: Any) -> PeftModel:
    """Adapt query and value; a classifier is trained in full."""
    heads = {"modules_to_save": ["classifier"]} if hasattr(model, "classifier") else {}
    return get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], **heads, **settings}))


def optimizer_of(model: nn.Module, **settings: Any) -> torch.optim.AdamW:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, **{"lr": 1e-3, **settings})


def train(model: nn.Module, batch: dict[str, Tensor], steps: int = 3) -> None:
    optimizer = optimizer_of(model, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


def saved_vit(folder: Path) -> Path:
    """Save a ViT without a head."""
    torch.manual_seed(0)
    ViTModel(VIT).save_pretrained(folder)
    return folder
