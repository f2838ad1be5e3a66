"""The guide's address of adapters on disk; the code is in `eomt.lora`."""

from eomt.lora.files import is_adapter_folder, load_adapter, save_adapter

__all__ = ["is_adapter_folder", "load_adapter", "save_adapter"]
