"""Pictures of what the model sees and predicts: while it learns, when it is tested, and for new images."""

import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png, encode_png
from torchvision.transforms.v2.functional import resize, rgb_to_grayscale, to_pil_image

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage, begins_run, check_num_samples
from callbacks.pictures.grid import picture_grid
from callbacks.pictures.objects import ObjectPictures, apart, draw, found_picture, object_pictures, shows_objects
from callbacks.pictures.output import picture_path, save_picture, show_picture
from callbacks.run.run_folder import PREDICTIONS
from callbacks.run.saved_state import PICTURE_STATE, checked_state
from eomt.errors import UserError, shortened
from eomt.pictures.colors import Color, palette
from eomt.pictures.masks import index_image, overlay
from eomt.pictures.prompts import PROMPT, draw_prompts
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import MaskFiles, class_names_of, data_of
from eomt.tasks.index_maps import index_map
from eomt.utils.images import shown_channels
from eomt.utils.labels import IGNORE_INDEX

log = logging.getLogger("eomt")

WRONG: Color = (255, 0, 0)


@dataclass
class PredictionSample:
    """One image on the CPU: `image` uint8 `(3, H, W)`, `truth` and `prediction` uint8 `(H, W)`.

    `shown` is the image with what was prompted. `stored` is the prediction as checkpoints keep that of step 0.
    `objects` are pictures of the objects, for tasks that tell these apart.
    """

    name: str
    image: Tensor
    shown: Tensor
    truth: Tensor
    prediction: Tensor
    stored: Tensor
    objects: ObjectPictures | None = None


def check_png(encoded: Tensor) -> None:
    """Check that bytes are a whole PNG, without unpacking it: its parts have checksums.

    Args:
        encoded: uint8 `(bytes,)`.

    Raises:
        UserError: They are none.
    """
    try:
        _opened(encoded).verify()
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        reason = shortened(str(error), 100)
        raise UserError(f"ckpt_path: its mask of step 0 is no PNG ({reason}); give another checkpoint") from error


def png_size(encoded: Tensor) -> tuple[int, int]:
    """Return height and width of a PNG, uint8 `(bytes,)`, as its beginning says."""
    image = _opened(encoded)
    return image.height, image.width


def decoded(encoded: Tensor) -> Tensor:
    """Return the pixels of a PNG, uint8 `(H, W)`.

    Raises:
        UserError: It cannot be unpacked.
    """
    try:
        return decode_png(encoded, ImageReadMode.GRAY)[0]
    except RuntimeError as error:
        raise UserError("ckpt_path: its mask of step 0 cannot be unpacked; give another checkpoint") from error


def _opened(encoded: Tensor) -> Image.Image:
    # else a byte that stands for a million would be copied
    if encoded.dtype != torch.uint8 or encoded.dim() != 1 or not encoded.is_contiguous():
        raise ValueError("a tensor of bytes is needed")
    return Image.open(io.BytesIO(encoded.numpy().tobytes()), formats=["PNG"])


def spread(num_samples: int, num_batches: float) -> Counter[int]:
    """Return how many samples to take from which batch, evenly spaced over a loader.

    Args:
        num_samples: How many in all.
        num_batches: How many batches there are; infinity takes the first ones.

    Returns:
        Batch index -> number of samples.
    """
    if num_batches == float("inf"):
        return Counter(range(num_samples))
    return Counter(int(index * num_batches // num_samples) for index in range(num_samples))


def errors(image: Tensor, truth: Tensor, prediction: Tensor) -> Tensor:
    """Return an image, faded, with wrong pixels in red; ignored ones are not wrong. Shapes: see `PredictionSample`."""
    wrong = (prediction != truth) & (truth != IGNORE_INDEX)
    faded = rgb_to_grayscale(image, num_output_channels=3) // 2 + 96
    return overlay(faded, torch.where(wrong, 0, IGNORE_INDEX), [WRONG], alpha=0.8)


class PredictionPictures(EvaluationCallback[LightningModule]):
    """Writes pictures into the run's folder, `trainer.default_root_dir`; for tasks that predict maps of class ids.

    `pictures/train_batch.png`: the first training batch, as augmented. `pictures/val_step000500.png`: image, truth,
    what step 0 predicted, what this step predicts, and where it is wrong; also sent to wandb and TensorBoard.
    `pictures/validate.png` and `pictures/test.png`: the same for the commands of these names. `predictions/masks`
    and `predictions/overlays`: for each image of `predict` its class ids and a picture; `predictions/labels` too,
    where the data's mask files have other labels than class ids, as Cityscapes' labelIds.

    The task's steps return `prediction`, int64 `(B, H, W)` or a list of `(H, W)`, at the file's size, and may return a
    `mask` alike, and `prompts`, a list with the Prompts of each image, which are drawn. Of instance and panoptic
    segmentation each object has an outline, and its score where it was found, in `predict` its class, too. A batch
    holds `image`, else `mask` (not in predict) and `name`, "" for padding. Where the task has `has_background`, 0 is no
    class and class i is i + 1. With other tasks nothing is written.

    Args:
        num_samples: How many validation or test images are shown, spread over the loader. In a run on several
            processes they come from the first one's share.
        masks: Whether `predict` writes `predictions/masks`, and `labels`.
        overlays: Whether `predict` writes `predictions/overlays`.
    """

    def __init__(self, num_samples: int = 4, masks: bool = True, overlays: bool = True) -> None:
        super().__init__()
        self.num_samples = check_num_samples(num_samples)
        self.masks, self.overlays = masks, overlays
        self._samples: list[PredictionSample] = []
        # name -> mask as PNG, uint8 (bytes,): a hundredth of the raw mask in every checkpoint
        self._step_0: dict[str, Tensor] = {}
        self._written = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the predictions of step 0, which a resumed run cannot make again."""
        return {"step_0": self._step_0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            UserError: A mask is damaged, or no mask.
        """
        step_0 = checked_state(state_dict, PICTURE_STATE, self)["step_0"]
        for encoded in step_0.values():
            # a damaged one is said now, not at the next validation
            check_png(encoded)
        self._step_0 = step_0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the first batch of a run, not of a resumed one."""
        masks = _truth(batch) if begins_run(trainer, batch_idx) else None
        if masks is None:
            return
        class_names, colors = shown_classes(trainer)
        images, masks = (
            shown_channels(batch["image"][: self.num_samples].cpu()),
            [mask.cpu() for mask in masks[: self.num_samples]],
        )
        rows = [[image, overlay(image, mask, colors)] for image, mask in zip(images, masks, strict=True)]
        if "labels" in batch:
            truths = zip(images, batch["masks"], batch["labels"], strict=False)
            rows = [[image, draw(image, of, labels.tolist(), len(class_names) - 1)] for image, of, labels in truths]
        legend = _legend(torch.cat([mask.flatten() for mask in masks]), class_names, colors)
        picture = picture_grid(rows, ["image, augmented", "truth"], list(batch["name"][: self.num_samples]), legend)
        save_picture(picture, self.folder / "pictures" / "train_batch.png")

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget step 0 in a fresh run, which makes its own; Lightning checks after some resumes too."""
        if trainer.global_step == 0:
            self._step_0 = {}

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted evaluation may have left."""
        self._samples, self._written = [], 0

    def take(self, trainer: Trainer, task: LightningModule, evaluated: EvaluatedBatch) -> None:
        """Keep the few samples to show; write every image of `predict`."""
        outputs = evaluated.outputs
        if not isinstance(outputs, Mapping) or "prediction" not in outputs:
            return
        if evaluated.stage == "predict":
            self._write(trainer, evaluated)
        elif trainer.is_global_zero and ("mask" in outputs or "mask" in evaluated.batch):
            self._keep(trainer, evaluated)

    def end_epoch(self, trainer: Trainer, task: LightningModule, stage: Stage) -> None:
        """Draw the kept samples, in a fit beside what step 0 made of them."""
        if not self._samples:
            return
        if trainer.sanity_checking and trainer.global_step == 0:
            self._step_0 = {sample.name: encode_png(sample.stored[None]) for sample in self._samples}
        self._draw(trainer)

    def end(self, trainer: Trainer, task: LightningModule, stage: Stage) -> None:
        """Say how many images of `predict` were written and where."""
        if stage != "predict":
            return
        count = torch.tensor(self._written, device=trainer.strategy.root_device)
        total = int(trainer.strategy.reduce(count, reduce_op="sum"))
        if total and trainer.is_global_zero:
            log.info("%d predictions (%s) are in %s", total, self._written_kinds(), self.folder / PREDICTIONS)

    def _keep(self, trainer: Trainer, evaluated: EvaluatedBatch) -> None:
        batch, outputs = evaluated.batch, evaluated.outputs
        truth = outputs.get("mask", batch.get("mask"))
        # several loaders count as one after the other
        num_batches = trainer.num_test_batches if evaluated.stage == "test" else trainer.num_val_batches
        position = sum(num_batches[: evaluated.loader]) + evaluated.index
        wanted = spread(self.num_samples, sum(num_batches))[int(position)]
        for index in evaluated.real()[:wanted]:
            # copies, for a view would keep the whole batch in memory
            image = at_size(shown_channels(batch["image"][index]).cpu().clone(), truth[index].shape)
            prediction = outputs["prediction"][index].to("cpu", torch.uint8)
            stored, objects = prediction, None
            if shows_objects(batch, outputs):
                found = outputs["found"][index]
                stored = apart(prediction, found.masks)
                objects = object_pictures(batch, found, index, len(class_names_of(trainer)))
            self._samples.append(
                PredictionSample(
                    name=batch["name"][index],
                    image=image,
                    shown=with_prompts(image, outputs, index),
                    truth=truth[index].to("cpu", torch.uint8),
                    prediction=prediction,
                    stored=stored,
                    objects=objects,
                )
            )

    def _draw(self, trainer: Trainer) -> None:
        class_names, colors = shown_classes(trainer)
        fits, step = trainer.state.fn == "fit", trainer.global_step
        shows_step_0 = fits and step > 0 and bool(self._step_0)
        titles = ["image", "truth", *(["step 0"] if shows_step_0 else []), f"step {step}" if fits else "prediction"]
        rows, masks = [], []
        for sample in self._samples:
            drawn = [sample.truth, *([self._first_prediction(sample)] if shows_step_0 else []), sample.prediction]
            painted = [overlay(sample.image, mask, colors) for mask in drawn]
            if sample.objects is not None:
                painted[0], painted[-1] = sample.objects
            rows.append([sample.shown, *painted, errors(sample.image, sample.truth, sample.prediction)])
            masks += drawn
        legend = [*_legend(torch.cat([mask.flatten() for mask in masks]), class_names, colors), ("wrong", WRONG)]
        if any(sample.shown is not sample.image for sample in self._samples):
            legend.append(("prompt", PROMPT))
        names = [sample.name for sample in self._samples]
        self._samples = []
        show_picture(trainer, self.folder, picture_grid(rows, [*titles, "wrong pixels"], names, legend))

    def _first_prediction(self, sample: PredictionSample) -> Tensor:
        """Return step 0's mask of a sample, uint8 `(H, W)`; where there is none, 255, which shows the bare image."""
        encoded = self._step_0.get(sample.name)
        # a few bytes may unpack to any size: what has the size of the image is decoded, and nothing else
        if encoded is not None and png_size(encoded) == sample.truth.shape:
            return decoded(encoded)
        return torch.full_like(sample.truth, IGNORE_INDEX)

    def _written_kinds(self) -> str:
        return " and ".join(name for name in ("masks", "overlays") if getattr(self, name)) or "no pictures"

    def _write(self, trainer: Trainer, evaluated: EvaluatedBatch) -> None:
        """Write each image's mask and overlay; every process writes its own share."""
        batch, predictions = evaluated.batch, evaluated.outputs["prediction"]
        _, colors = shown_classes(trainer)
        data: object = data_of(trainer)
        labels = torch.tensor(data.file_labels() if isinstance(data, MaskFiles) else [])
        for index in evaluated.real():
            mask = predictions[index].cpu()
            path = picture_path(batch["name"][index])
            # numbers of objects, where prompts name no classes, may be more than there are classes
            shown = colors if int(mask.max()) < len(colors) else [None, *palette(int(mask.max()))]
            if self.masks:
                save_picture(index_image(mask, shown), self.folder / PREDICTIONS / "masks" / path)
            if self.overlays:
                image = at_size(shown_channels(batch["image"][index]).cpu(), mask.shape)
                if "found" in evaluated.outputs:
                    painted = found_picture(image, evaluated.outputs["found"][index], class_names_of(trainer))
                else:
                    painted = with_prompts(overlay(image, mask, shown), evaluated.outputs, index)
                save_picture(to_pil_image(painted), self.folder / PREDICTIONS / "overlays" / path)
            if self.masks and not torch.equal(labels, torch.arange(len(labels))):
                of_file = labels[mask].numpy().astype(np.uint8 if labels.max() < 256 else np.uint16)
                save_picture(Image.fromarray(of_file), self.folder / PREDICTIONS / "labels" / path)
            self._written += 1


def _truth(batch: Any) -> Sequence[Tensor] | None:
    """Return maps of class ids of a training batch, None if it has none."""
    if not isinstance(batch, Mapping) or not {"image", "name"} <= batch.keys():
        return None
    if "masks" in batch:
        class_ids = batch["labels" if "labels" in batch else "class_ids"]
        return [index_map(masks, ids) for masks, ids in zip(batch["masks"], class_ids, strict=True)]
    return batch["mask"] if "mask" in batch and batch["mask"].ndim == 3 else None


def with_prompts(image: Tensor, outputs: Mapping[str, Any], index: int) -> Tensor:
    """Return an image with the prompts that the task answered, if there were any."""
    prompts = outputs.get("prompts")
    return draw_prompts(image, prompts[index]) if prompts and prompts[index] is not None else image


def at_size(image: Tensor, size: Sequence[int]) -> Tensor:
    """Return an image `(3, H, W)` that the network sees squashed, as its file is."""
    return image if image.shape[-2:] == tuple(size) else resize(image, list(size))


def shown_classes(trainer: Trainer) -> tuple[list[str], list[Color | None]]:
    """Return names and colors by value of the maps; the background has no color."""
    task = trainer.lightning_module
    # data to test on alone have no classes of their own
    names = class_names_of(trainer)
    colors = palette(len(names))
    if isinstance(task, AdaptationTask) and task.has_background:
        return ["background", *names], [None, *colors]
    return names, [*colors]


def _legend(masks: Tensor, class_names: list[str], colors: Sequence[Color | None]) -> list[tuple[str, Color]]:
    """Return name and color of the classes that occur."""
    found = [(class_names[index], colors[index]) for index in masks.unique().tolist() if index < len(colors)]
    return [(name, color) for name, color in found if color is not None]
