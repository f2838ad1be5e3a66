"""The guide's address of the LoRA layers; the code is in `eomt.lora`."""

from eomt.lora.layers import (
    LoRAAttention,
    LoRAConv2d,
    LoRALinear,
    count_lora_parameters,
    freeze_lora_params,
    merge_lora_weights,
    replace_linear_with_lora,
)

__all__ = [
    "LoRAAttention",
    "LoRAConv2d",
    "LoRALinear",
    "count_lora_parameters",
    "freeze_lora_params",
    "merge_lora_weights",
    "replace_linear_with_lora",
]
