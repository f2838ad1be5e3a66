"""End-to-end Multi-Task: LoRA for vision foundation models on small data."""

__version__ = "0.1.0"
