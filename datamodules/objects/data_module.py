"""Common parts of the data modules of images with objects, whatever format says where they are."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch.utils.data import DataLoader, Dataset

from datamodules.common.checks import check_class_names, check_fractions, check_scale_range, check_shares, given_size
from datamodules.common.data_module import NetworkFact
from datamodules.common.grouped_splits import Group, refuse_overlap
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.reading import check_image, orientation_of
from datamodules.common.sampling import collate_any_size, collate_samples
from datamodules.common.splits import SEEDED, SPLITS, SPLITS_OF_STAGE
from datamodules.common.threads import map_in_threads
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.common.zip_members import ImageFile
from datamodules.objects.annotation import AnnotatedImage, Grouping, counts_of, group_objects
from datamodules.objects.datasets import (
    AugmentedObjectDataset,
    Choose,
    ObjectDataset,
    ObjectMapDataset,
    collate_objects,
    segments_of,
)
from datamodules.objects.prompted import AugmentedPromptableDataset, PromptableDataset, ask
from datamodules.objects.splits import UNSPLIT, files_of, given_images, groups_of, split_images
from datamodules.segmentation.image_mask_dataset import AugmentedDataset, ImageDataset, IndexMapDataset, blank_image
from datamodules.segmentation.labels import MAX_CLASSES
from datamodules.segmentation.outlier_exposure import OutlierPaste
from datamodules.segmentation.rare_classes import RepeatFactorSampler, repeat_factors
from datamodules.segmentation.transforms import TrainTransform
from eomt.errors import UserError, listed
from eomt.utils.paths import expand

log = logging.getLogger("eomt")

# what batches hold, see `ObjectDataModule`
Target = Literal["semantic", "instance", "panoptic", "prompted"]
BACKGROUND = "background"


class ObjectDataModule(ImageDataModule, ABC):
    """Loaders of images with objects; subclasses say which images and classes there are.

    Batches are dicts with `image`, uint8 RGB, and `name`, list of B file names; in evaluation a sample with an empty
    name is padding of a rank. What else they hold says `target`:

    - "semantic": `image` (B, 3, H, W) and `mask` (B, H, W) int64, the class of the smallest object that covers a pixel,
      crowds too. Pixels of no object are class 0, "background", or, without `background`, 255 = ignored. With
      `outliers` also `outlier`, see `SegmentationDataModule`.
    - "instance": `masks`, list of B `eomt.utils.packed_masks.PackedMasks`, and `labels`, list of B (N,) int64. In
      evaluation images, which are a list where they differ in size, have the size of the file, `is_crowd`, list of B
      (N,) bool, marks regions of many objects, and `areas`, list of B (N,) float64, are those that the annotations
      state, nan for none. Training leaves crowds out, and objects of which the crop shows no pixel; N may be 0.
    - "panoptic": the same, but masks do not overlap; stuff has one mask for each class.
    - "prompted": `image` squashed to `img_size`; `masks` and `class_ids`, see `Severstal`: in training of that size,
      in evaluation of the file's.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of what is cut out for training, one number for a square; not of "prompted".
        target: What batches hold; the command line fills in what the task takes. Null for "instance".
        eval_batch_size: Samples per step in evaluation; of "semantic" 1 where images differ in size.
        num_workers: Processes that read files.
        class_names: Names of the classes, by class id; null for those that the annotations name.
        background: Whether pixels of no object are a class of "semantic"; else they are ignored.
        objects: What one object is, see `datamodules.objects.annotation.group_objects`: each "instance" that is
            annotated, each connected "component" of what a class covers, or all that an image shows of a "class".
        augment: Whether training images are changed at random; false only cuts crops out of them, at the scale of
            evaluation.
        scale_range: Smallest and largest scale of training images, relative to the one at which they just fit into the
            crop; not of "prompted".
        flip: Whether training images are mirrored at random; of "prompted" both ways.
        color_jitter: Whether training images vary in brightness, contrast and (but for "prompted") saturation.
        repeat_factor_threshold: Share of training images below which a class is shown more often, as 0.01; null: never.
        outliers: For "semantic", folder of cut-outs of unknown objects to paste into training images.
        outlier_probability: Share of training images that get one.
        val_fraction: Share of validation where the split is seeded.
        test_fraction: Share of test where the split is seeded.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        predict_path: Images to predict: files, folders and patterns, one or a list; null for those that `prompts`
            names, or without prompts those of test, or else val.
        img_size: Height and width of resized whole images, of "prompted"; null for the network's, as `crop_size`.
        prompts: What `predict` asks about images of "prompted", see `datamodules.objects.prompt_files`.
        **reading: Fields of `ImageDataModule`: how stored values become RGB, and how many training images are used.

    Attributes:
        counts: After `setup`, per split the number of "images", under each class name of those that show it, and under
            "objects of <name>" of its objects.

    Raises:
        UserError: A field has an impossible value.
    """

    from_network: ClassVar[Mapping[str, NetworkFact]] = {"crop_size": "img_size", "img_size": "img_size"}
    from_task: ClassVar[Sequence[str]] = ("target",)
    # where neither the user nor the task says what batches hold
    default_target: ClassVar[Target] = "instance"

    def __init__(
        self,
        path: Path,
        batch_size: int = 4,
        crop_size: int | tuple[int, int] | None = None,
        target: Target | None = None,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        class_names: list[str] | None = None,
        background: bool = True,
        objects: Grouping = "instance",
        augment: bool = True,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        color_jitter: bool = True,
        repeat_factor_threshold: float | None = None,
        outliers: Path | None = None,
        outlier_probability: float = 0.2,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        splits: Path | None = None,
        predict_path: PredictPath = None,
        prompts: Path | None = None,
        img_size: int | tuple[int, int] | None = None,
        **reading: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path, **reading)
        check_fractions(val_fraction, test_fraction)
        check_class_names(class_names)
        check_scale_range(scale_range)
        check_shares(repeat_factor_threshold=repeat_factor_threshold, outlier_probability=outlier_probability)
        self.path, self.splits = expand(path), expand(splits)
        self.outliers, self.prompts = expand(outliers), expand(prompts)
        self.crop_size, self.img_size = given_size("crop_size", crop_size), given_size("img_size", img_size)
        self.target: Target = target or self.default_target
        if self.crop_size and self.img_size and self.crop_size != self.img_size:
            raise UserError(f"crop_size, img_size: samples of target {self.target} have one size; give one of them")
        if self.outliers is not None and self.target != "semantic":
            raise UserError(f"outliers: batches of target {self.target} mark none; leave outliers out")
        self.background, self.objects = background, objects
        self.augment, self.scale_range, self.flip, self.color_jitter = augment, scale_range, flip, color_jitter
        self.repeat_factor_threshold, self.outlier_probability = repeat_factor_threshold, outlier_probability
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.collate = collate_samples if self.target == "semantic" else collate_objects
        self._class_names = class_names

    # -- what a format says ------------------------------------------------------------------------------------------

    @abstractmethod
    def find_class_names(self) -> list[str]:
        """Return the names of the classes of objects, by class id, where `class_names` is null.

        Raises:
            UserError: The annotations cannot be read.
        """

    @abstractmethod
    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of "train", "val" and, maybe, "test"; or of "all", which a seed splits.

        Raises:
            UserError: Files are missing, or cannot be read.
        """

    @property
    def stuff_classes(self) -> list[int]:
        """Class ids of what is no thing, such as sky; each image shows at most one segment of each."""
        return []

    def images_of(self, split: str) -> list[AnnotatedImage]:
        """Return the images of "train", "val" or "test"; a format may read the files of each when it is asked.

        Raises:
            UserError: Files are missing, or cannot be read.
        """
        return self._splits[split]

    def all_converted(self, images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
        """Return images with the way in which their values become RGB."""
        return [replace(image, image=self.converted(image.image)) for image in images]

    def look_at(self, image: AnnotatedImage) -> np.ndarray:
        """Return the class ids of an image's objects, (N,) int64, after a look at all of its files.

        Raises:
            UserError: A file or an annotation cannot be used.
        """
        size = check_image(image.image)
        return self.choose(image.annotation.objects(size, orientation_of(image.image))).class_ids

    def map_dataset(self, images: Sequence[AnnotatedImage]) -> IndexMapDataset:
        """Return images with the classes of their pixels, for "semantic"."""
        return ObjectMapDataset(images, self.background)

    # -- what the application asks -----------------------------------------------------------------------------------

    @property
    def object_names(self) -> list[str]:
        """Names of the classes of objects, by class id."""
        if self._class_names is None:
            self._class_names = self.find_class_names()
            check_class_names(self._class_names)
        return list(self._class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in batches, by class id: those of objects and, before them, maybe the background."""
        names = [BACKGROUND] * self._has_background + self.object_names
        if names.count(BACKGROUND) > 1:
            raise UserError(f"{self.path}: a class of objects is called {BACKGROUND}, too; set background: false")
        if self.target == "semantic" and not 2 <= len(names) <= MAX_CLASSES:
            raise UserError(
                f"{self.path}: {len(names)} classes ({names[0] if names else 'none'}); maps of classes have 2 to "
                f"{MAX_CLASSES}: set background: true for one kind of objects"
            )
        return names

    @property
    def num_classes(self) -> int:
        """Number of classes in batches."""
        return len(self.class_names)

    def file_labels(self) -> list[int]:
        """Return the label of each class in mask files: its id."""
        return list(range(self.num_classes))

    def found_arguments(self) -> dict[str, Any]:
        """Return the names of the classes of objects."""
        return {"class_names": self.object_names}

    def has_prompts(self) -> bool:
        """Return whether `predict` is given prompts."""
        return self.prompts is not None

    @property
    def repeats_images(self) -> bool:
        """Whether training images are at most mirrored; crops out of larger images may still differ each time."""
        rescales = self.target != "prompted" and self.scale_range[0] != self.scale_range[1]
        return not (self.augment and (self.color_jitter or rescales)) and self.outliers is None

    @property
    def is_split_by_seed(self) -> bool:
        """True where the split is made here, and not by files."""
        return UNSPLIT in self._found_images

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as `splits` takes them from a JSON file."""
        return {split: [image.name for image in self.images_of(split)] for split in SPLITS}

    def split_groups(self) -> list[Group]:
        """Return copies of an image together."""
        return groups_of([image for split in ("train", "val") for image in self.images_of(split)])

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file or an annotation cannot be used, or there are too few images or objects to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            images = self._used(split)
            if images:
                self.counts[split] = self._count(images, f"Checking {split} files")
            elif split != "test":
                raise UserError(f"{self.path}: the {split} split is empty; more annotated images are needed")
        if stage in ("fit", None):
            seen, counts = self.counts["train"], self.counts["val"]
            if not any(seen[name] for name in self.object_names):
                raise UserError(f"{self.path}: the training images show no object; check the annotations")
            if unseen := [name for name in self.object_names if counts[name] and not seen[name]]:
                log.warning("%s: no training image shows %s, but others do", self.path, listed(unseen, most=5))
            if unmeasured := [name for name in self.object_names if seen[name] and not counts[name]]:
                log.warning("%s: no validation image shows %s: no figure", self.path, listed(unmeasured, most=5))
            self._check_batch_size(seen["images"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled, augmented batches; what does not fill a batch is left out.

        Raises:
            UserError: Their size was not given.
        """
        images, sampler = self._used("train"), None
        if self.repeat_factor_threshold is not None:
            factors = repeat_factors([set(image.classes) for image in images], self.repeat_factor_threshold)
            sampler = RepeatFactorSampler(factors, self._world_size, self._rank, self._run_seed)
        return self.training_loader(self._training_dataset(images), sampler)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images, in order."""
        return self.evaluation_loader(self.masked_dataset("val"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test images, in order.

        Raises:
            UserError: There is no test split.
        """
        if not self.images_of("test"):
            raise UserError(f"{self.path}: no test split; use validate, add one, or set test_fraction")
        return self.evaluation_loader(self.masked_dataset("test"))

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return images without objects: those of `predict_path`, or else of the test split, or else of val.

        Of "prompted" they are squashed, and come with what is asked about them, see `Severstal.predict_dataloader`;
        else images of one batch may differ in size, and are a list then.

        Raises:
            UserError: `predict_path` does not exist or holds no image, or the prompts do not fit the images.
        """
        files = self._files_to_predict()
        if self.target != "prompted":
            dataset, blank = ImageDataset(list(files.items())), blank_image(self.num_channels)
            return self.prediction_loader(dataset, files, blank, collate=collate_any_size)
        names = self.class_names if self.prompts is not None else []
        asked = ask(files, self._size, self.prompts, names, self.predict_path is not None)
        return self.prediction_loader(asked, dict(asked.files), asked.blank())

    def _used(self, split: str) -> list[AnnotatedImage]:
        images = self.images_of(split)
        return self.training_part(images, lambda image: image.name) if split == "train" else images

    # -- images and their samples ------------------------------------------------------------------------------------

    @cached_property
    def choose(self) -> Choose:
        """What returns the objects that batches hold, of those that are annotated; it travels to other processes."""
        if self.target == "panoptic":
            return partial(segments_of, stuff_classes=tuple(self.stuff_classes))
        return partial(group_objects, how=self.objects)

    @property
    def _has_background(self) -> bool:
        return self.target == "semantic" and self.background

    @property
    def _size(self) -> tuple[int, int]:
        name = "img_size" if self.target == "prompted" else "crop_size"
        if (size := getattr(self, name)) is None:
            raise UserError(f"{name}: null; give the height and width of training samples, e.g. [640, 640]")
        return size

    def _training_dataset(self, images: list[AnnotatedImage]) -> Dataset[dict[str, Any]]:
        flip, color_jitter = self.augment and self.flip, self.augment and self.color_jitter
        if self.target == "prompted":
            return AugmentedPromptableDataset(images, self._size, flip, color_jitter, self.objects)
        transform = TrainTransform(self._size, self.scale_range if self.augment else None, flip, color_jitter)
        if self.target == "semantic":
            share, channels = self.outlier_probability, self.num_channels
            outliers = OutlierPaste(self.outliers, share, channels) if self.outliers is not None else None
            return AugmentedDataset(self.map_dataset(images), transform, outliers)
        return AugmentedObjectDataset(images, self.choose, transform)

    def masked_dataset(self, split: str) -> Dataset[dict[str, Any]]:
        """Return the images of a split with what batches hold of their objects, as they are."""
        images = self._used(split)
        if self.target == "prompted":
            return PromptableDataset(images, self._size, self.objects)
        return self.map_dataset(images) if self.target == "semantic" else ObjectDataset(images, self.choose)

    def _files_to_predict(self) -> dict[str, ImageFile]:
        if self.predict_path is not None:
            return {name: self.converted(file) for name, file in find_images(self.predict_path).items()}
        if self.prompts is not None:
            # all of the data set may be prompted
            return files_of({split: self.images_of(split) for split in SPLITS})
        return {image.name: image.image for image in self.images_of("test") or self.images_of("val")}

    @cached_property
    def _found_images(self) -> dict[str, list[AnnotatedImage]]:
        return {split: self.all_converted(images) for split, images in self.find_splits().items()}

    @cached_property
    def _splits(self) -> dict[str, list[AnnotatedImage]]:
        found = self._found_images
        if UNSPLIT in found:
            splits = split_images(found[UNSPLIT], self.val_fraction, self.test_fraction, self.split_seed, self.splits)
        else:
            splits = given_images(found, self.path, self.splits)
            self.note_unused(SEEDED, f"{self.path} is split by its files")
        # a new split keeps copies together by itself
        if self.splits is not None or UNSPLIT not in found:
            refuse_overlap({split: [image.image for image in images] for split, images in splits.items()})
        return splits

    def _count(self, images: list[AnnotatedImage], title: str) -> dict[str, int]:
        """Return the number of images, of those that show each class, and of the objects of each class."""
        shown = counts_of(map_in_threads(self.look_at, images, title), self.object_names)
        return {"images": len(images)} | dict.fromkeys(self.class_names, len(images)) | shown
