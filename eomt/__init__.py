"""End-to-end Multi-Task: LoRA for vision foundation models on small data.

This module offers what is needed from Python: adapt any torch module, prove that every adapter acts and learns, save,
load and merge. Networks are in `eomt.models`, LightningModules in `eomt.tasks`, data modules in `datamodules`.

    import eomt

    network = eomt.apply_lora(network, eomt.LoRAConfig(rank=8, target_modules=["attention", "mlp"]))
    # allow_random_base: what another library loaded is not recorded here
    eomt.audit(network, batch, lambda model, batch: criterion(model(batch)), allow_random_base=True).require()
    eomt.save_adapter(network, "my_adapter")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eomt.app.loading import load
    from eomt.errors import UserError
    from eomt.lora import (
        LoRAConfig,
        apply_lora,
        get_lora_stats,
        load_adapter,
        merge_lora_weights,
        print_lora_summary,
        save_adapter,
    )
    from eomt.results import save_results
    from eomt.sharing.push import push
    from eomt.verification import AuditError, AuditReport, audit, check_adapters

__version__ = "0.1.0"

# name -> its module, imported at first use, so that `import eomt` costs nothing
_PLACES = {
    "UserError": "eomt.errors",
    "LoRAConfig": "eomt.lora",
    "apply_lora": "eomt.lora",
    "get_lora_stats": "eomt.lora",
    "load": "eomt.app.loading",
    "load_adapter": "eomt.lora",
    "merge_lora_weights": "eomt.lora",
    "print_lora_summary": "eomt.lora",
    "push": "eomt.sharing.push",
    "save_results": "eomt.results",
    "save_adapter": "eomt.lora",
    "AuditError": "eomt.verification",
    "AuditReport": "eomt.verification",
    "audit": "eomt.verification",
    "check_adapters": "eomt.verification",
}

__all__ = [
    "AuditError",
    "AuditReport",
    "LoRAConfig",
    "UserError",
    "__version__",
    "apply_lora",
    "audit",
    "check_adapters",
    "get_lora_stats",
    "load",
    "load_adapter",
    "merge_lora_weights",
    "print_lora_summary",
    "push",
    "save_adapter",
    "save_results",
]


def __getattr__(name: str) -> Any:
    """Return an object of `__all__` from its module, which is imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
