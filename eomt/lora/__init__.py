"""LoRA for any torch module: adapt, count, save, load, merge. It needs torch and safetensors, and knows no network.

Its files, in the order in which to read them:

1. `config`: the settings (LoRAConfig) and the record of what was done to a network (Adaptation).
2. `adapter_layer`, `dropout`, `layers`: the adapted layers, W + (alpha / r) B A.
3. `supported_layers`, `targets`: from the names in a config to the paths of layers, and what is refused.
4. `adaptable`, `trainable`: what a network says of its parts, and which parameters are trained.
5. `backends`, `peft_layers`, `fingerprint`, `apply`: adapters are put in, by this package's layers or by PEFT's.
6. `packing`, `packed_weight`, `quantize`: a frozen base in 8 or 4 bits.
7. `peft_format`, `peft_reading`, `files`, `record`: adapters on disk, and in a checkpoint.
8. `summary`: counts, for people.
"""

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
