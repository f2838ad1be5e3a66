"""Pre-training of a masked autoencoder on images without labels."""

import logging
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.losses.morph import mae_loss
from eomt.metrics.mean_patch import MeanPatchLoss
from eomt.models.mae import MAEPictures, MAEPrediction, MaskedAutoencoder
from eomt.models.masking import num_kept
from eomt.models.memory import Memory
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import data_of

log = logging.getLogger("eomt")

# He et al., arXiv:2111.06377, table 8
BETAS = (0.9, 0.95)
REFERENCE_BATCH = 256


class MaskedAutoencoding(AdaptationTask):
    """Training of a MaskedAutoencoder, which reconstructs patches that it does not see.

    Batches: `image`, uint8 `(B, 3, H, W)` of the network's size, and `name`.

    `val_loss` uses the same masks in every validation. They follow from the number of the batch, and so change with
    `eval_batch_size` and with the number of processes. Beside it stands `val_loss_mean_patch`: what the mean patch at
    each place reaches without a look at the image; see MeanPatchLoss.

    Args:
        network: A MaskedAutoencoder.
        lora_config: Adapters and trained modules; None trains every parameter.
        base_lr: Learning rate at a batch of 256. The actual rate is base_lr * batch / 256, where batch is the data's
            batch_size times accumulate_grad_batches times the number of processes.
        weight_decay: See AdaptationTask.
        schedule: See AdaptationTask.
        warmup: See AdaptationTask.
        compile: See AdaptationTask.
        memory: See AdaptationTask.
        mask_ratio: Share of the patches that is removed, above 0 and below 1; None takes the network's.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_loss"
    mode = "min"
    file_metrics = ("loss",)
    # divided, its processes waited for each other for ever
    can_shard = False
    network_class = MaskedAutoencoder
    network: MaskedAutoencoder

    def __init__(
        self,
        network: MaskedAutoencoder,
        lora_config: LoRAConfig | None = None,
        base_lr: float = 1.5e-4,
        weight_decay: float = 0.05,
        schedule: Literal["cosine", "poly"] = "cosine",
        warmup: float = 0.05,
        compile: bool = False,
        memory: Memory | None = None,
        mask_ratio: float | None = None,
    ) -> None:
        self.check_network(network)
        if not base_lr >= 0:
            raise UserError(f"base_lr: {base_lr!r}; must be at least 0")
        if mask_ratio is not None:
            num_kept(network.num_patches, mask_ratio)
            # transformers reads it from its configuration in every forward
            network.mask_ratio = network.model.config.mask_ratio = mask_ratio
        super().__init__(
            network, lora_config, lr=base_lr, weight_decay=weight_decay, schedule=schedule, warmup=warmup,
            compile=compile,
            memory=memory,
        )  # fmt: skip
        self.base_lr = base_lr
        self.evaluation_loss = MeanMetric()
        self.mean_patch_loss = MeanPatchLoss(network.num_patches, 3 * network.patch_size**2)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW with the paper's betas, at the learning rate for the size of the batch."""
        if batch := self._batch_size():
            self.lr = self.base_lr * batch / REFERENCE_BATCH
        configured = super().configure_optimizers()
        for group in configured["optimizer"].param_groups:
            group["betas"] = BETAS
        return configured

    def on_fit_start(self) -> None:
        """Log the learning rate and the batch that it follows from."""
        # before this hook the run's log file is not open
        batch = self._batch_size()
        log.info("Learning rate: %.3g = base_lr %.3g x batch %s / %d", self.lr, self.base_lr, batch, REFERENCE_BATCH)

    def _batch_size(self) -> int | None:
        """Return the number of images of a step over all processes; None without data, as in `inspect`."""
        data = data_of(self.trainer)
        if data is None:
            return None
        return data.batch_size * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], MAEPrediction]:
        """Return the reconstruction loss of the removed patches, under random masks."""
        prediction = self.network(batch["image"])
        target = self.network.target(batch["image"])
        return {"loss": mae_loss(prediction.reconstruction, target, prediction.mask)}, prediction

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images of the network's size."""
        generator = torch.Generator().manual_seed(0)
        size = (batch_size, 3, *self.network.img_size)
        return {
            "image": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
            "name": [f"synthetic {index}" for index in range(batch_size)],
        }

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the reconstruction, `(B, N, p * p * 3)`, under masks that are always the same."""
        assert isinstance(network, MaskedAutoencoder)
        return network(batch["image"], masks_of(batch["name"])).reconstruction

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add the loss of a batch, each image under its own mask."""
        # samples without a name only complete the last step of a rank, and do not count
        real = [index for index, name in enumerate(batch["name"]) if name]
        if not real:
            return
        prediction = self.network(batch["image"], masks_of(batch["name"]))
        target = self.network.target(batch["image"])
        loss = mae_loss(prediction.reconstruction[real], target[real], prediction.mask[real])
        # the same number of patches is removed from every image, so the mean of means is the mean
        self.evaluation_loss.update(loss, len(real))
        self.mean_patch_loss.update(target[real])

    def on_validation_epoch_end(self) -> None:
        """Log `val_loss`, and that of the mean patch."""
        # the metric has gathered from all ranks already; sync_dist only tells Lightning so
        self.log("val_loss", self.evaluation_loss.compute(), prog_bar=True, sync_dist=True)
        self.log("val_loss_mean_patch", self.mean_patch_loss.compute(), sync_dist=True)
        self.evaluation_loss.reset()
        self.mean_patch_loss.reset()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Refuse to test.

        Raises:
            UserError: Always, since there are no labels.
        """
        raise UserError("test: without labels there is nothing to test; use validate")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> MAEPictures:
        """Return the images, masked and reconstructed."""
        return self.rebuild(batch)

    def rebuild(self, batch: dict[str, Any]) -> MAEPictures:
        """Return pictures of the images of a batch, `(B, 3, H, W)`, each under its own mask."""
        return self.network.reconstruct(batch["image"], masks_of(batch["name"]))


def masks_of(names: Sequence[str]) -> list[torch.Generator]:
    """Return the random generators for the masks of evaluated images, the same in any batch and on any process.

    They are on the CPU, so that the masks are the same for all devices.
    """
    return [torch.Generator().manual_seed(zlib.crc32(name.encode())) for name in names]
