"""When outputs of frozen parts are kept: for which weights, and for which images."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from eomt.models.frozen_features import FeatureCache
from eomt.models.network import Network
from eomt.tasks.data import data_of
from eomt.utils.modes import evaluation_mode

log = logging.getLogger("eomt")

# of looked up training images that must have been there; random crops may coincide
LEAST_SHARE = 0.02


def keep_features(network: Network, limit: float, folder: Path | None, trainer: Trainer) -> None:
    """Give all parts of a network one empty cache: weights may have been changed between two runs.

    Args:
        network: The network of a task.
        limit: Memory in GiB for all processes of this node.
        folder: See `FeatureCache`.
        trainer: The trainer of the run.
    """
    cache = FeatureCache(limit / max(1, trainer.num_devices), folder)
    data = data_of(trainer)
    cache.in_training = data is None or data.repeats_images
    _give(network, cache)


@torch.no_grad()
def kept_parts(network: Network, run: Callable[[], object]) -> dict[str, int]:
    """Return the frozen parts at the start of a network whose outputs can be kept, with the bytes of a sample.

    Args:
        network: The network of a task.
        run: Runs it once.
    """
    former, cache = network.feature_cache, FeatureCache(math.inf)
    _give(network, cache)
    try:
        with evaluation_mode(network):
            run()
    finally:
        _give(network, former)
    return cache.bytes_of_parts()


def forget_features(network: Network) -> None:
    """Take the cache from all parts of a network."""
    _give(network, None)


def forget_random_images(network: Network, epoch: int) -> None:
    """No longer keep features of training images where none was met again: they are drawn anew each time.

    Args:
        network: The network of a task.
        epoch: Number of the epoch that has ended, from 0.
    """
    cache = network.feature_cache
    if cache is not None and cache.in_training and epoch and cache.found < LEAST_SHARE * cache.asked:
        cache.in_training = False
        cache.clear()
        log.info("Training images differ each time: features of frozen parts are kept for validation alone")


def _give(network: Network, cache: FeatureCache | None) -> None:
    for module in network.modules():
        if isinstance(module, Network):
            module.feature_cache = cache
