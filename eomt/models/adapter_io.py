"""Adapters on disk: what is here lives in `eomt.lora`."""

from eomt.lora.files import is_adapter_folder, load_adapter, save_adapter

__all__ = ["is_adapter_folder", "load_adapter", "save_adapter"]
