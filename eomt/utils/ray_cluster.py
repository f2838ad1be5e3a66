"""A Ray cluster: the one that is there, or one of this machine alone for the time of a command."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

from eomt.errors import UserError

# bytes: trainings hand each other no objects
OBJECT_STORE = 80 * 2**20


def ray_module() -> Any:
    """Return Ray.

    Raises:
        UserError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.train
    except ImportError as error:
        raise UserError('launcher: ray is not installed; run pip install "eomt[ray]"') from error
    return ray


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Connect to the cluster that RAY_ADDRESS names, or begin one here, reached from this machine alone.

    Args:
        workers: Processes that one of this machine must have room for.

    Yields:
        Ray.
    """
    ray = ray_module()
    # the code of this process, and what the guides say of idle threads
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }
    settings: dict[str, Any] = {"runtime_env": {"env_vars": variables}, "logging_level": "warning"}
    if "RAY_ADDRESS" not in os.environ:
        settings |= {
            "address": "local",
            "num_cpus": max(workers, os.cpu_count() or 1),
            "num_gpus": torch.cuda.device_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        ray.init(**settings)
    except Exception as error:
        # a machine without room for it raises no class of its own
        # Ray tells a missing token from no cluster in a log alone
        raise UserError(
            f"launcher: ray: {str(error).splitlines()[0]}; see RAY_ADDRESS, and give RAY_AUTH_MODE=token if a cluster "
            "asks for a token"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
