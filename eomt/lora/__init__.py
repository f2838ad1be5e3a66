"""LoRA for any torch module: adapt, count, save, load, merge. Imports torch, safetensors and nothing of a network."""

from eomt.lora.apply import apply_lora
from eomt.lora.config import Adaptation, AdapterSpec, LoRAConfig, adaptation
from eomt.lora.files import is_adapter_folder, load_adapter, save_adapter
from eomt.lora.layers import (
    LoRAAttention,
    LoRAConv2d,
    LoRALinear,
    count_lora_parameters,
    freeze_lora_params,
    merge_lora_weights,
    replace_linear_with_lora,
)
from eomt.lora.summary import get_lora_stats, print_lora_summary

__all__ = [
    "Adaptation",
    "AdapterSpec",
    "LoRAAttention",
    "LoRAConfig",
    "LoRAConv2d",
    "LoRALinear",
    "adaptation",
    "apply_lora",
    "count_lora_parameters",
    "freeze_lora_params",
    "get_lora_stats",
    "is_adapter_folder",
    "load_adapter",
    "merge_lora_weights",
    "print_lora_summary",
    "replace_linear_with_lora",
    "save_adapter",
]
