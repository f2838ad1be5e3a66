"""The guide's address of LoRAConfig and of adapting a network; the code is in `eomt.lora`."""

from eomt.lora.apply import apply_lora, apply_lora_to_vit
from eomt.lora.config import Adaptation, AdapterSpec, LoRAConfig, adaptation
from eomt.lora.summary import get_lora_stats, print_lora_summary

__all__ = [
    "Adaptation",
    "AdapterSpec",
    "LoRAConfig",
    "adaptation",
    "apply_lora",
    "apply_lora_to_vit",
    "get_lora_stats",
    "print_lora_summary",
]
