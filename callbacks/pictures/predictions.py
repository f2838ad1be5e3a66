"""Pictures of what the model sees and predicts: while it learns, when it is tested, and for new images."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png, encode_png
from torchvision.transforms.v2.functional import resize, rgb_to_grayscale, to_pil_image

from callbacks.pictures.loggers import log_image
from callbacks.pictures.masks import Color, grid, index_image, overlay, palette, save_picture
from eomt.errors import UserError
from eomt.tasks.index_maps import index_map
from eomt.utils.labels import IGNORE_INDEX

log = logging.getLogger("eomt")

WRONG: Color = (255, 0, 0)


@dataclass
class Sample:
    """One image on the CPU: `image` uint8 (3, H, W), `truth` and `prediction` uint8 (H, W)."""

    name: str
    image: Tensor
    truth: Tensor
    prediction: Tensor


def spread(num_samples: int, num_batches: float) -> Counter[int]:
    """How many samples to take from which batch, evenly spaced over a loader.

    Args:
        num_samples: how many in all.
        num_batches: how many batches there are; infinity takes the first ones.

    Returns:
        Batch index -> number of samples.
    """
    if num_batches == float("inf"):
        return Counter(range(num_samples))
    return Counter(int(index * num_batches // num_samples) for index in range(num_samples))


def errors(image: Tensor, truth: Tensor, prediction: Tensor) -> Tensor:
    """Wrong pixels in red on the faded image; ignored ones are not wrong. Shapes as in `Sample`."""
    wrong = (prediction != truth) & (truth != IGNORE_INDEX)
    faded = rgb_to_grayscale(image, num_output_channels=3) // 2 + 96
    return overlay(faded, torch.where(wrong, 0, IGNORE_INDEX), [WRONG], alpha=0.8)


class PredictionPictures(Callback):
    """Writes pictures into the run's folder, `trainer.default_root_dir`; for tasks that predict maps of class ids.

    `pictures/train_batch.png`: the first training batch, as augmented. `pictures/val_step000500.png`: image, truth,
    what step 0 predicted, what this step predicts, and where it is wrong; also sent to wandb and TensorBoard.
    `pictures/validate.png` and `pictures/test.png`: the same for the commands of these names. `predictions/masks`
    and `predictions/overlays`: for each image of `predict` its class ids and a picture.

    The task's steps return `prediction`, int64 (B, H, W) or a list of (H, W), at the file's size, and may return a
    `mask` alike; a batch holds `image`, else `mask` (not in predict) and `name`, "" for padding. Where the task has
    `has_background`, 0 is no class and class i is i + 1. With other tasks nothing is written.

    Args:
        num_samples: how many validation or test images are shown, spread over the loader. In a run on several
            processes they come from the first one's share.
    """

    def __init__(self, num_samples: int = 4) -> None:
        super().__init__()
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples}, must be at least 1")
        self.num_samples = num_samples
        self._folder = Path()
        self._samples: list[Sample] = []
        # name -> mask as PNG, uint8 (bytes,): a hundredth of the raw mask in every checkpoint
        self._step_0: dict[str, Tensor] = {}
        self._written = 0

    def state_dict(self) -> dict[str, Any]:
        """The predictions of step 0, which a resumed run cannot make again."""
        return {"step_0": self._step_0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._step_0 = dict(state_dict["step_0"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agrees on the run's folder, whose name may hold a time that differs between processes."""
        self._folder = Path(trainer.strategy.broadcast(trainer.default_root_dir))

    # what the model sees

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draws the first batch of a run, not of a resumed one."""
        if batch_idx > 0 or trainer.global_step > 0 or trainer.current_epoch > 0 or not trainer.is_global_zero:
            return
        masks = _truth(batch)
        if masks is None:
            return
        class_names, colors = _classes(trainer)
        images, masks = batch["image"][: self.num_samples].cpu(), [mask.cpu() for mask in masks[: self.num_samples]]
        rows = [[image, overlay(image, mask, colors)] for image, mask in zip(images, masks, strict=True)]
        legend = _legend(torch.cat([mask.flatten() for mask in masks]), class_names, colors)
        picture = grid(rows, ["image, augmented", "truth"], list(batch["name"][: self.num_samples]), legend)
        save_picture(picture, self._folder / "pictures" / "train_batch.png")

    # validation and test

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fresh run has a step 0 of its own; Lightning checks after some resumes too, which keep theirs."""
        if trainer.global_step == 0:
            self._step_0 = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted validation may have left."""
        self._samples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the few samples to show."""
        self._keep(trainer, outputs, batch, batch_idx, dataloader_idx, trainer.num_val_batches)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the kept samples beside what step 0 made of them."""
        if not self._samples:
            return
        if trainer.state.fn == "validate":
            self._draw(trainer, "prediction", "validate.png")
            return
        step = trainer.global_step
        if trainer.sanity_checking and step == 0:
            self._step_0 = {sample.name: encode_png(sample.prediction[None]) for sample in self._samples}
        self._draw(trainer, f"step {step}", f"val_step{step:06d}.png", logged_as="val_pictures")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted test may have left."""
        self._samples = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the few samples to show."""
        self._keep(trainer, outputs, batch, batch_idx, dataloader_idx, trainer.num_test_batches)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the kept samples."""
        if self._samples:
            self._draw(trainer, "prediction", "test.png")

    def _keep(
        self,
        trainer: Trainer,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
        num_batches: Sequence[int | float],
    ) -> None:
        if not trainer.is_global_zero or not _has_prediction(outputs) or not ("mask" in outputs or "mask" in batch):
            return
        truth = outputs.get("mask", batch.get("mask"))
        # several loaders count as one after the other
        position = sum(num_batches[:dataloader_idx]) + batch_idx
        wanted = spread(self.num_samples, sum(num_batches))[int(position)]
        real = [index for index, name in enumerate(batch["name"]) if name]
        for index in real[:wanted]:
            self._samples.append(
                Sample(
                    name=batch["name"][index],
                    # copies, for a view would keep the whole batch in memory
                    image=_at_size(batch["image"][index].cpu().clone(), truth[index].shape),
                    truth=truth[index].to("cpu", torch.uint8),
                    prediction=outputs["prediction"][index].to("cpu", torch.uint8),
                )
            )

    def _draw(self, trainer: Trainer, prediction_title: str, file_name: str, logged_as: str | None = None) -> None:
        class_names, colors = _classes(trainer)
        shows_step_0 = logged_as is not None and trainer.global_step > 0 and bool(self._step_0)
        titles = ["image", "truth", *(["step 0"] if shows_step_0 else []), prediction_title, "wrong pixels"]
        rows, masks = [], []
        for sample in self._samples:
            drawn = [sample.truth, *([self._first_prediction(sample)] if shows_step_0 else []), sample.prediction]
            painted = [overlay(sample.image, mask, colors) for mask in drawn]
            rows.append([sample.image, *painted, errors(sample.image, sample.truth, sample.prediction)])
            masks += drawn
        legend = _legend(torch.cat([mask.flatten() for mask in masks]), class_names, colors) + [("wrong", WRONG)]
        picture = grid(rows, titles, [sample.name for sample in self._samples], legend)
        self._samples = []
        save_picture(picture, self._folder / "pictures" / file_name)
        if logged_as is not None:
            log_image(trainer.loggers, logged_as, picture, trainer.global_step)

    def _first_prediction(self, sample: Sample) -> Tensor:
        """Step 0's mask of a sample, uint8 (H, W); 255 throughout, which shows the bare image, where there is none."""
        if sample.name in self._step_0:
            mask = decode_png(self._step_0[sample.name], ImageReadMode.GRAY)[0]
            if mask.shape == sample.truth.shape:
                return mask
        return torch.full_like(sample.truth, IGNORE_INDEX)

    # new images

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from nothing."""
        self._written = 0

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes each image's mask and overlay; every process writes its own share."""
        if not _has_prediction(outputs):
            return
        _, colors = _classes(trainer)
        for name, image, mask in zip(batch["name"], batch["image"].cpu(), outputs["prediction"], strict=True):
            if not name:
                continue
            image, mask = _at_size(image, mask.shape), mask.cpu()
            path = picture_path(name)
            save_picture(index_image(mask, colors), self._folder / "predictions" / "masks" / path)
            save_picture(to_pil_image(overlay(image, mask, colors)), self._folder / "predictions" / "overlays" / path)
            self._written += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how many images were written and where."""
        count = torch.tensor(self._written, device=trainer.strategy.root_device)
        total = int(trainer.strategy.reduce(count, reduce_op="sum"))
        if total and trainer.is_global_zero:
            log.info("%d predictions (masks and overlays) are in %s", total, self._folder / "predictions")


def picture_path(name: str) -> Path:
    """Where a sample's picture goes, below a folder, never outside it: `a.png` as `a.png`, `a.jpg` as `a.jpg.png`.

    The name alone decides, so that no process and no order of files can make two samples share a picture.
    """
    path = Path(name)
    path = Path(*(part for part in path.parts if part not in (path.anchor, "..")))
    return path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png")


def _has_prediction(outputs: Any) -> bool:
    return isinstance(outputs, Mapping) and "prediction" in outputs


def _truth(batch: Any) -> Sequence[Tensor] | None:
    """Maps of class ids of a training batch, None if it has none."""
    if not isinstance(batch, Mapping) or not {"image", "name"} <= batch.keys():
        return None
    if "masks" in batch:
        return [
            index_map(masks, class_ids) for masks, class_ids in zip(batch["masks"], batch["class_ids"], strict=True)
        ]
    return batch["mask"] if "mask" in batch and batch["mask"].ndim == 3 else None


def _at_size(image: Tensor, size: Sequence[int]) -> Tensor:
    """An image (3, H, W) that the network sees squashed, as its file is."""
    return image if image.shape[-2:] == tuple(size) else resize(image, list(size))


def _classes(trainer: Trainer) -> tuple[list[str], list[Color | None]]:
    """Names and colours by value of the maps; the background has no colour."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    task: Any = trainer.lightning_module
    # data to test on alone have no classes of their own
    num_classes: int = getattr(datamodule, "num_classes", None) or task.network.num_classes
    names = getattr(datamodule, "class_names", None) or [f"class {index}" for index in range(num_classes)]
    colors = palette(num_classes)
    if getattr(task, "has_background", False):
        return ["background", *names], [None, *colors]
    return names, [*colors]


def _legend(masks: Tensor, class_names: list[str], colors: Sequence[Color | None]) -> list[tuple[str, Color]]:
    """Name and colour of the classes that occur."""
    found = [(class_names[index], colors[index]) for index in masks.unique().tolist() if index < len(colors)]
    return [(name, color) for name, color in found if color is not None]
