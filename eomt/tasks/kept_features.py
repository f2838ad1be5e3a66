"""When outputs of frozen parts are kept: for which weights, and for which images."""

import logging
from pathlib import Path

from lightning.pytorch import Trainer

from eomt.models.network import Network
from eomt.models.parts.frozen_features import FeatureCache
from eomt.tasks.data import data_of

log = logging.getLogger("eomt")


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
    for module in network.modules():
        if isinstance(module, Network):
            module.feature_cache = cache


def forget_random_images(network: Network, epoch: int) -> None:
    """No longer keep features of training images where none was met again: they are drawn anew each time.

    Args:
        network: The network of a task.
        epoch: Number of the epoch that has ended, from 0.
    """
    cache = network.feature_cache
    if cache is not None and cache.in_training and epoch and cache.asked and not cache.found:
        cache.in_training = False
        cache.clear()
        log.info("Training images differ each time: features of frozen parts are kept for validation alone")
