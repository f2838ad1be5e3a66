"""The number of this process among those that train together."""

import os
import sys

# by which launchers number processes; Lightning looks at the same
VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def rank() -> int:
    """Return the number of this process among those that train together, even before their group is initialized.

    A lone process loads no library for it: a mistake in its arguments is told before they are, which takes seconds.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    is_numbered = any(variable in os.environ for variable in VARIABLES)
    if not is_numbered and "lightning.fabric.utilities.rank_zero" not in sys.modules:
        return 0
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)
