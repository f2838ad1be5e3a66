"""The guide's short form of LoRA on a vision encoder."""

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig

RANK, ALPHA, DROPOUT = 8, 16, 0.1


def vision_lora_config(wanted: bool, rank: int, lora_alpha: float, lora_dropout: float) -> LoRAConfig | None:
    """Return a config with query, key and value of the vision encoder, all else frozen but the new parts.

    Args:
        wanted: Whether there is to be LoRA; else None is returned.
        rank: `vision_lora_r`.
        lora_alpha: `vision_lora_alpha`.
        lora_dropout: `vision_lora_dropout`.

    Raises:
        UserError: If one of these was set where no LoRA is wanted, or is impossible.
    """
    if wanted:
        return LoRAConfig(
            rank=rank,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=["query", "key", "value"],
            exclude_modules=["text_model", "fusion"],
            freeze_base_model=True,
        )
    for name, value, default in (("r", rank, RANK), ("alpha", lora_alpha, ALPHA), ("dropout", lora_dropout, DROPOUT)):
        if value != default:
            raise UserError(
                f"vision_lora_{name}: {value}, but use_vision_lora is false; set it to true, or give a lora_config"
            )
    return None
