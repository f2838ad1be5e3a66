"""Images in folders of classes, or in a table of labels."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.classification.dataset import LabeledImages, Targets, UnlabeledImages, blank_image
from datamodules.classification.folders import read_class_folders
from datamodules.classification.labels import (
    LabeledImage,
    LabeledSet,
    check_classes,
    interleaved,
    ordered_classes,
    refuse_contradictions,
)
from datamodules.classification.table import read_label_table
from datamodules.classification.transforms import ClassTransform
from datamodules.common.balanced_sampling import BalancedSampler
from datamodules.common.checks import as_size, check_class_names, check_fractions
from datamodules.common.data_module import NetworkFact
from datamodules.common.grouped_splits import Group, group_copies, grouped_split, refuse_overlap
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.reading import check_image
from datamodules.common.sampling import TrainingSampler
from datamodules.common.splits import SEEDED, SPLITS, SPLITS_OF_STAGE, read_split_record
from datamodules.common.threads import map_in_threads
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted
from eomt.utils.paths import expand

log = logging.getLogger("eomt")

DEFAULT_SIZE = 224


class ImageFolder(ImageDataModule):
    """Images with one class each, or with any number of labels.

    `path` is a folder with a folder of images for each class; or with `train`, `val` and maybe `test`, each with such
    folders; or a CSV file: `path,label[,split]`, or `path`, maybe `split`, and a column of 0 and 1 for each label.
    Where neither folders nor a column say so, images are split by a seed, each class in proportion, and copies of an
    image (files with the same bytes) stay together. Copies in two splits, or of two classes, are refused.

    Batches are dicts: `image` (B, 3, *img_size) uint8 RGB; `label`, int64 (B,), or float (B, C) of 0 and 1 where images
    have several; lists of B strings: `path`, and `name`, relative to `path`. In evaluation a sample with an empty name
    is padding of a rank. Images are resized to cover `img_size` and cut to it, not squashed.

    Args:
        path: Folder or CSV file of the data set.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; the command line fills in the network's; null
            for 224.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        class_names: Names of the classes in the order of their ids; null takes those of the data, sorted.
        label_separator: What parts the labels of an image in a CSV's column `label`, such as "|"; null where each image
            has one class.
        balanced: Whether training draws every class equally often; not where images have several labels.
        augment: Whether training images are changed at random.
        least_crop: Smallest share of a training image's area that is cut out; 1 keeps the whole image.
        flip: Whether half of the training images are mirrored; false where left and right differ, as in letters.
        color: Largest change of brightness, contrast and saturation, as a share; 0 for none.
        val_fraction: Share of validation where the split is seeded.
        test_fraction: Share of test where the split is seeded.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        predict_path: Images to predict, without labels: files, folders and patterns, one or a list; null for the test
            images, or else those of validation.
        **reading: Fields of `ImageDataModule`: how stored values become RGB, and how many training images are used.

    Attributes:
        counts: After `setup`, per split the number of "images", and of those of each class.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    from_network: ClassVar[Mapping[str, NetworkFact]] = {"img_size": "img_size"}

    def __init__(
        self,
        path: Path,
        batch_size: int = 32,
        img_size: int | tuple[int, int] | None = None,
        eval_batch_size: int = 64,
        num_workers: int = 2,
        class_names: list[str] | None = None,
        label_separator: str | None = None,
        balanced: bool = False,
        augment: bool = True,
        least_crop: float = 0.5,
        flip: bool = True,
        color: float = 0.2,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        splits: Path | None = None,
        predict_path: PredictPath = None,
        **reading: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path, **reading)
        check_fractions(val_fraction, test_fraction)
        check_class_names(class_names)
        for name, value, good, allowed in (
            ("label_separator", label_separator, label_separator != "", "a character that is in no label, or null"),
            ("least_crop", least_crop, 0 < least_crop <= 1, "above 0 and at most 1"),
            ("color", color, 0 <= color < 1, "at least 0 and below 1"),
        ):
            if not good:
                raise UserError(f"{name}: {value!r}; must be {allowed}")
        self.path = expand(path)
        self.img_size = as_size(img_size, DEFAULT_SIZE)
        self.given_names, self.label_separator = class_names, label_separator
        self.balanced, self.augment = balanced, augment
        self.transform = ClassTransform(self.img_size, least_crop, flip, color) if augment else None
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.splits = expand(splits)
        self._set: LabeledSet | None = None
        self._split: dict[str, list[LabeledImage]] | None = None

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class id."""
        return self.given_names or self._read().class_names

    def found_arguments(self) -> dict[str, Any]:
        """Return the names of the classes, so that a saved run predicts without the training data."""
        return {"class_names": self.class_names}

    def is_multi_label(self) -> bool:
        """Return whether an image may have any number of the classes."""
        return self._read().multi_label

    def label_counts(self) -> list[int]:
        """Return how many training images show each class."""
        counts = Counter(label for image in self._used("train") for label in image.labels)
        return [counts[name] for name in self.class_names]

    @property
    def is_split_by_seed(self) -> bool:
        """True where the split is made here, and not by folders or by a column of the CSV."""
        return not any(image.split for image in self._read().images)

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as `splits` takes them from a JSON file."""
        return {split: [image.name for image in images] for split, images in self._splits().items()}

    @property
    def repeats_images(self) -> bool:
        """Whether training images are not changed at random."""
        return self.transform is None

    def files_of(self, split: str) -> list[tuple[str, ImageFile]]:
        """Return name and file of each image of "train", "val" or "test"."""
        return [(image.name, image.file) for image in self._splits()[split]]

    # -- files and loaders -------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file cannot be used, a class cannot be learned, or there are too few samples to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            images = self._used(split)
            if not images and split == "val":
                raise UserError(f"{self.path}: the val split is empty; more images are needed")
            if images:
                map_in_threads(check_image, [image.file for image in images], f"Checking {split} files")
                counts = Counter(label for image in images for label in image.labels)
                self.counts[split] = {"images": len(images)} | {name: counts[name] for name in self.class_names}
        if stage in ("fit", None):
            check_classes(self._splits(), self.class_names, self.path)
            self._check_batch_size(len(self._training_sampler()) * self._world_size)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled, augmented batches; what does not fill a batch is left out."""
        images = self._used("train")
        dataset = LabeledImages(images, self.img_size, self._targets(), self.transform, keeps=True)
        return self.training_loader(dataset, self._training_sampler())

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images, the classes in turn."""
        return self._evaluated(self._splits()["val"])

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test images, the classes in turn.

        Raises:
            UserError: There are none.
        """
        if not self._splits()["test"]:
            raise UserError(f"{self.path}: no test split; use validate, or set test_fraction")
        return self._evaluated(self._splits()["test"])

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images of `predict_path`, or else the test images, or else those of validation.

        Raises:
            UserError: `predict_path` does not exist or holds no image.
        """
        files: Mapping[str, ImageFile]
        if self.predict_path is not None:
            files = {name: self.converted(file) for name, file in find_images(self.predict_path).items()}
        else:
            files = {image.name: image.file for image in self._splits()["test"] or self._splits()["val"]}
        return self.prediction_loader(
            UnlabeledImages(files, self.img_size), files, blank_image(self.img_size, self.num_channels)
        )

    def plain_images(self, split: str, most: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images of a split without random changes, and their targets, in batches of evaluation.

        Args:
            split: "train", "val" or "test".
            most: Of each class, evenly spread over them; None for all.
        """
        of_class: dict[tuple[str, ...], list[LabeledImage]] = {}
        for image in self._used(split):
            of_class.setdefault(image.labels, []).append(image)
        chosen = [image for found in of_class.values() for image in found[:: -(-len(found) // (most or len(found)))]]
        dataset = LabeledImages(chosen, self.img_size, self._targets())
        for start in range(0, len(chosen), self.eval_batch_size):
            samples = [dataset[index] for index in range(start, min(start + self.eval_batch_size, len(chosen)))]
            yield (torch.stack([sample[key] for sample in samples]) for key in ("image", "label"))  # type: ignore[misc]

    def _evaluated(self, images: Sequence[LabeledImage]) -> DataLoader[dict[str, Any]]:
        return self.evaluation_loader(LabeledImages(interleaved(images), self.img_size, self._targets()))

    def _targets(self) -> Targets:
        return Targets(self.class_names, self.is_multi_label())

    def _training_sampler(self) -> TrainingSampler:
        images = self._used("train")
        if not self.balanced:
            return TrainingSampler(len(images), self._world_size, self._rank, self._run_seed)
        if self.is_multi_label():
            raise UserError("balanced: true, and images have several labels; give --model.class_weights balanced")
        ids = {name: index for index, name in enumerate(self.class_names)}
        labels = [ids[image.labels[0]] for image in images]
        if min(Counter(labels).values()) < self._world_size:
            raise UserError(f"balanced: {self._world_size} processes, more than a class has training images; set false")
        return BalancedSampler(labels, self._world_size, self._rank, self._run_seed)

    # -- splits ------------------------------------------------------------------------------------------------------

    def _read(self) -> LabeledSet:
        if self._set is None:
            if self.path.is_file():
                found = read_label_table(self.path, self.label_separator)
            elif self.label_separator is not None:
                raise UserError(f"label_separator: {self.label_separator!r} is of CSV files, and {self.path} is none")
            else:
                found = read_class_folders(self.path)
            check_class_names(found.class_names)
            names = ordered_classes(found.class_names, self.given_names, self.path)
            images = [replace(image, file=self.converted(image.file)) for image in found.images]
            self._set = LabeledSet(images, names, found.multi_label)
        return self._set

    def _splits(self) -> dict[str, list[LabeledImage]]:
        if self._split is None:
            images = self._read().images
            refuse_contradictions(images)
            image_of = {image.name: image for image in images}
            if not self.is_split_by_seed:
                if self.splits is not None:
                    raise UserError(f"splits: {self.path} has splits of its own; leave this field out")
                self.note_unused(SEEDED, f"{self.path} has splits of its own")
                split = {name: [image for image in images if image.split == name] for name in SPLITS}
            else:
                if self.splits is not None:
                    record = read_split_record(self.splits, list(image_of))
                else:
                    record = self._seeded_split(images)
                split = {name: [image_of[image] for image in record[name]] for name in SPLITS}
            refuse_overlap({name: [image.file for image in part] for name, part in split.items()})
            self._split = split
        return self._split

    def _used(self, split: str) -> list[LabeledImage]:
        images = self._splits()[split]
        return self.training_part(images, lambda image: image.name) if split == "train" else images

    def _seeded_split(self, images: Sequence[LabeledImage]) -> dict[str, list[str]]:
        groups = self._groups(images)
        self._check_class_sizes(groups)
        return grouped_split(groups, self.val_fraction, self.test_fraction, self.split_seed)

    def _groups(self, images: Sequence[LabeledImage]) -> list[Group]:
        ids = {name: index for index, name in enumerate(self.class_names)}
        classes = [frozenset(ids[label] for label in image.labels) for image in images]
        return group_copies([image.name for image in images], [image.file for image in images], classes)

    def split_groups(self) -> list[Group]:
        """Return copies of an image together."""
        found = self._splits()
        return self._groups([*found["train"], *found["val"]])

    def _check_class_sizes(self, groups: Sequence[Group]) -> None:
        """Raise a UserError unless each class has a different image for each split."""
        wanted = 3 if self.test_fraction else 2
        for class_id, name in enumerate(self.class_names):
            number = sum(class_id in group.classes for group in groups)
            if number < wanted:
                raise UserError(
                    f"{self.path}: {counted(number, 'different image')} of class {name!r}; a seeded split into "
                    f"{', '.join(SPLITS[:wanted])} needs {wanted} at least: add some, or take the class out"
                )
