"""Common parts of the data modules of images with masks of classes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from datamodules.common.checks import check_scale_range, check_shares, given_size
from datamodules.common.data_module import NetworkFact
from datamodules.common.grouped_splits import Group
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.mask_labels import Color
from datamodules.common.pairs import Pair
from datamodules.common.sampling import collate_any_size
from datamodules.common.splits import SPLITS_OF_STAGE
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.image_mask_dataset import AugmentedDataset, ImageDataset, ImageMaskDataset, blank_image
from datamodules.segmentation.labels import LabelTable, one_class_problem
from datamodules.segmentation.outlier_exposure import OutlierPaste
from datamodules.segmentation.rare_classes import RepeatFactorSampler, repeat_factors
from datamodules.segmentation.scanning import scan_pairs
from datamodules.segmentation.transforms import TrainTransform
from eomt.errors import UserError
from eomt.utils.paths import expand


class SegmentationDataModule(ImageDataModule, ABC):
    """Loaders of images and their segmentation masks; subclasses say which files there are and what labels mean.

    Batches are dicts: `image` (B, 3, H, W) uint8 RGB, `mask` (B, H, W) int64 with 255 = ignored, `name` list of B
    file names relative to the images folder. In evaluation a sample with an empty name is padding of a rank. With
    `outliers` training batches also hold `outlier` (B, H, W) bool, true on pasted pixels, which `mask` ignores.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's.
        eval_batch_size: Samples per step in evaluation; 1 where images differ in size.
        num_workers: Processes that read files.
        augment: Whether training images are changed at random; false only cuts crops out of them, at the scale of
            evaluation.
        scale_range: Smallest and largest scale of training images, relative to the one at which they just fit into the
            crop.
        flip: Whether training images are mirrored at random.
        color_jitter: Whether training images vary in brightness, contrast and saturation.
        repeat_factor_threshold: Share of the training images below which a class is rare, e.g. 0.01; images of rare
            classes are shown more often, see `repeat_factors`. Null shows each image once.
        outliers: Folder of cut-outs of unknown objects to paste into training images, see `read_cutouts`.
        outlier_probability: Share of training images that get one.
        predict_path: Images to predict: files, folders and patterns, one or a list; null for the images of test, or
            else val.
        **reading: Fields of `ImageDataModule`: how stored values become RGB, and how many training images are used.

    Attributes:
        counts: After `setup`, per split the number of "images", and under each class name of those that contain it.

    Raises:
        UserError: A field has an impossible value.
    """

    from_network: ClassVar[Mapping[str, NetworkFact]] = {"crop_size": "img_size"}
    # RGB of the raw labels 0, 1, 2, ... in colored masks
    class_colors: list[Color] | None = None

    def __init__(
        self,
        path: Path,
        batch_size: int = 4,
        crop_size: tuple[int, int] | None = None,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        augment: bool = True,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        color_jitter: bool = True,
        repeat_factor_threshold: float | None = None,
        outliers: Path | None = None,
        outlier_probability: float = 0.2,
        predict_path: PredictPath = None,
        **reading: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path, **reading)
        check_scale_range(scale_range)
        check_shares(repeat_factor_threshold=repeat_factor_threshold, outlier_probability=outlier_probability)
        self.path = expand(path)
        self.crop_size = given_size("crop_size", crop_size)
        self.augment = augment
        self.scale_range = scale_range
        self.flip = flip
        self.color_jitter = color_jitter
        self.repeat_factor_threshold = repeat_factor_threshold
        self.outliers = expand(outliers)
        self.outlier_probability = outlier_probability
        self._pairs: dict[str, list[Pair]] | None = None
        self._histograms: dict[str, list[dict[int, int]]] = {}

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, by class id."""

    @property
    def repeats_images(self) -> bool:
        """Whether training images are at most mirrored; crops out of larger images may still differ each time."""
        varies = self.augment and (self.color_jitter or self.scale_range[0] != self.scale_range[1])
        return not varies and self.outliers is None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @abstractmethod
    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of "train", "val" and "test" (empty where there is none).

        Raises:
            UserError: Files are missing.
        """

    @abstractmethod
    def label_table(self) -> LabelTable:
        """Return the class id of every raw label in the masks."""

    def file_labels(self) -> list[int]:
        """Return the label of each class in mask files, so that predictions can be written as such files are."""
        return self.label_table().file_labels()

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as `splits` takes them from a JSON file."""
        return {split: [pair.name for pair in pairs] for split, pairs in self._found().items()}

    def split_groups(self) -> list[Group]:
        """Return each image with the classes that it shows, after a look at every mask of train and val."""
        return [
            Group((pair.name,), frozenset(classes))
            for split in ("train", "val")
            for pair, classes in self._classes_shown(split).items()
        ]

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file cannot be used, a label is unknown, or there are too few samples or classes to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            if self._pairs_of(split):
                self.counts[split] = self._count(split)
                if not any(self.counts[split][name] for name in self.class_names):
                    raise UserError(f"{self.path}: every pixel of the {split} masks is ignored; see ignore_labels")
            elif split != "test":
                raise UserError(f"{self.path}: the {split} split is empty; more images are needed")
        if stage in ("fit", None):
            self._check_training_split()

    def _check_training_split(self) -> None:
        labels = {label for histogram in self._scan("train") for label in histogram}
        if sum(self.counts["train"][name] > 0 for name in self.class_names) < 2:
            raise UserError(f"{self.path}: the training masks hold only {one_class_problem(labels)}")
        self._check_batch_size(self.counts["train"]["images"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled, augmented batches; what does not fill a batch is left out.

        Raises:
            UserError: `crop_size` was not given.
        """
        if self.crop_size is None:
            raise UserError("crop_size: null; give the height and width of training samples, e.g. [644, 644]")
        scale_range = self.scale_range if self.augment else None
        transform = TrainTransform(
            self.crop_size, scale_range, self.augment and self.flip, self.augment and self.color_jitter
        )
        outliers = (
            OutlierPaste(self.outliers, self.outlier_probability, self.num_channels)
            if self.outliers is not None
            else None
        )
        return self.training_loader(
            AugmentedDataset(self.masked_dataset("train"), transform, outliers), self._training_sampler()
        )

    def _training_sampler(self) -> RepeatFactorSampler | None:
        if self.repeat_factor_threshold is None:
            return None
        factors = repeat_factors(self._classes_present("train"), self.repeat_factor_threshold)
        return RepeatFactorSampler(factors, self._world_size, self._rank, self._run_seed)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images at their own size, in order."""
        return self.evaluation_loader(self.masked_dataset("val"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test images at their own size, in order.

        Raises:
            UserError: There is no test split.
        """
        if not self._pairs_of("test"):
            raise UserError(f"{self.path}: no test split; use validate, add a 'test' folder, or set test_fraction")
        return self.evaluation_loader(self.masked_dataset("test"))

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return images without masks: those of `predict_path`, or else of the test split, or else of val.

        Images of one batch may differ in size, and are a list then.

        Raises:
            UserError: `predict_path` does not exist or holds no image.
        """
        files = self._files_to_predict()
        return self.prediction_loader(
            ImageDataset(files), dict(files), blank_image(self.num_channels), collate=collate_any_size
        )

    def _files_to_predict(self) -> list[tuple[str, ImageFile]]:
        if self.predict_path is None:
            pairs = self._pairs_of("test") or self._pairs_of("val")
            return [(pair.name, pair.image) for pair in pairs]
        found = find_images(self.predict_path, "predict_path")
        return [(name, self.converted(file)) for name, file in found.items()]

    def masked_dataset(self, split: str) -> ImageMaskDataset:
        """Return the images of a split with their masks, as they are."""
        return ImageMaskDataset(self._used(split), self.label_table(), self.class_colors)

    def _used(self, split: str) -> list[Pair]:
        pairs = self._pairs_of(split)
        return self.training_part(pairs, lambda pair: pair.name) if split == "train" else pairs

    def _pairs_of(self, split: str) -> list[Pair]:
        return self._found()[split]

    def _found(self) -> dict[str, list[Pair]]:
        if self._pairs is None:
            self._pairs = {
                split: [replace(pair, image=self.converted(pair.image)) for pair in pairs]
                for split, pairs in self.find_splits().items()
            }
        return self._pairs

    def _scan(self, split: str) -> list[dict[int, int]]:
        if split not in self._histograms:
            self._histograms[split] = scan_pairs(self._pairs_of(split), self.class_colors, f"Checking {split} files")
        return self._histograms[split]

    def _classes_present(self, split: str) -> list[set[int]]:
        """Return the classes that each image of a split shows, of those that are used."""
        shown = self._classes_shown(split)
        return [shown[pair] for pair in self._used(split)]

    def _classes_shown(self, split: str) -> dict[Pair, set[int]]:
        table = self.label_table()
        return {
            pair: table.classes_present(histogram, pair.mask)
            for pair, histogram in zip(self._pairs_of(split), self._scan(split), strict=True)
        }

    def _count(self, split: str) -> dict[str, int]:
        classes_of_images = self._classes_present(split)
        return {"images": len(classes_of_images)} | {
            name: sum(class_id in classes for classes in classes_of_images)
            for class_id, name in enumerate(self.class_names)
        }
