"""Folders of images and masks."""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from datamodules.class_maps import CLASS_MAPS, NamedClassMap
from datamodules.common.data_module import ImageDataModule, check_fractions, find_images
from datamodules.common.pairs import Pair, find_pairs, find_split_folders
from datamodules.common.splits import SPLITS, SPLITS_OF_STAGE, read_split_record, seeded_split
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.image_mask_dataset import AugmentedDataset, ImageDataset, ImageMaskDataset
from datamodules.segmentation.labels import LabelTable, declared_num_classes, infer_num_classes, one_class_problem
from datamodules.segmentation.outlier_exposure import OutlierPaste
from datamodules.segmentation.rare_classes import RepeatFactorSampler, repeat_factors
from datamodules.segmentation.scanning import scan_pairs
from datamodules.segmentation.transforms import TrainTransform
from eomt.errors import UserError


class ImageMaskFolder(ImageDataModule):
    """Images and their segmentation masks in folders.

    `path` holds `train`, `val` and optionally `test`, each with `images` and `masks`; or `images` and `masks` hold
    these in their turn (ADE20K's `images` and `annotations` with `training` and `validation`); or there are just
    `images` and `masks`, which are split by a seed. Subclasses for other layouts override `find_splits`.

    Batches are dicts: `image` (B, 3, H, W) uint8 RGB, `mask` (B, H, W) int64 with 255 = ignored, `name` list of B
    file names relative to the images folder. In evaluation a sample with an empty name is padding of a rank. With
    `outliers` training batches also hold `outlier` (B, H, W) bool, true on pasted pixels, which `mask` ignores.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's.
        eval_batch_size: Samples per step in evaluation; 1 where images differ in size.
        num_workers: Processes that read files.
        image_suffix: How the images' names end, e.g. "_leftImg8bit.png"; null for any common extension.
        mask_suffix: What stands in a mask's name instead, e.g. "_gtFine_labelIds.png"; null for ".png".
        class_names: Names of the classes, by class id.
        class_map: Class id of each raw label in the masks (255 = ignored), or the name of a map in
            `datamodules.class_maps`, which brings its class names; null where they are class ids already.
        ignore_labels: Raw labels that do not count.
        class_colors: For colour masks, RGB of the raw labels 0, 1, 2, ...
        val_fraction: Share of validation where the split is seeded.
        test_fraction: Share of test where the split is seeded.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        scale_range: Smallest and largest scale of training images, relative to the one that just covers the crop.
        flip: Whether training images are mirrored at random.
        color_jitter: Whether training images vary in brightness, contrast and saturation.
        repeat_factor_threshold: Share of the training images below which a class is rare, e.g. 0.01; images of rare
            classes are shown more often, see `repeat_factors`. Null shows each image once.
        outliers: Folder of cut-outs of unknown objects to paste into training images, see `read_cutouts`.
        outlier_probability: Share of training images that get one.
        predict_path: Folder of images, or one image, to predict; null for the images of test, or else val.

    Attributes:
        counts: After `setup`, per split the number of "images", and under each class name of those that contain it.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    def __init__(
        self,
        path: str,
        batch_size: int = 4,
        crop_size: tuple[int, int] | None = None,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        class_names: list[str] | None = None,
        class_map: dict[int, int] | NamedClassMap | None = None,
        ignore_labels: list[int] = [255],  # noqa: B006 (the command line shows the default; it is copied below)
        class_colors: list[tuple[int, int, int]] | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        splits: str | None = None,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        color_jitter: bool = True,
        repeat_factor_threshold: float | None = None,
        outliers: str | None = None,
        outlier_probability: float = 0.2,
        predict_path: str | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        if crop_size is not None and min(crop_size) < 1:
            raise UserError(f"crop_size: {list(crop_size)}: must be at least 1 pixel each way")
        check_fractions(val_fraction, test_fraction)
        if not 0 < scale_range[0] <= scale_range[1]:
            raise UserError(f"scale_range: {scale_range}: give the smaller scale first, above 0")
        for field, share in (
            ("repeat_factor_threshold", repeat_factor_threshold),
            ("outlier_probability", outlier_probability),
        ):
            if share is not None and not 0 < share <= 1:
                raise UserError(f"{field}: {share}: a share of the images, above 0 and at most 1")
        if isinstance(class_map, str):
            class_map, names = CLASS_MAPS[class_map]
            class_names = class_names or names
        self.path = Path(path)
        self.crop_size = crop_size
        self.image_suffix = image_suffix
        self.mask_suffix = mask_suffix
        self.class_map = class_map
        self.ignore_labels = list(ignore_labels)
        self.class_colors = [(red, green, blue) for red, green, blue in class_colors] if class_colors else None
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.splits = Path(splits) if splits is not None else None
        self.scale_range = scale_range
        self.flip = flip
        self.color_jitter = color_jitter
        self.repeat_factor_threshold = repeat_factor_threshold
        self.outliers = Path(outliers) if outliers is not None else None
        self.outlier_probability = outlier_probability
        self.predict_path = Path(predict_path) if predict_path is not None else None
        self._class_names = class_names
        self._num_classes = declared_num_classes(class_names, class_map, self.ignore_labels, self.class_colors)
        self._pairs: dict[str, list[Pair]] | None = None
        self._histograms: dict[str, list[dict[int, int]]] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes; where no field states it, the training masks are read once to find it.

        Raises:
            UserError: The training masks' labels are not 0, 1, 2, ... without a gap.
        """
        if self._num_classes is None:
            labels = {label for histogram in self._scan("train") for label in histogram}
            self._num_classes = infer_num_classes(labels, self.ignore_labels)
        return self._num_classes

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class id."""
        return self._class_names or [f"class {class_id}" for class_id in range(self.num_classes)]

    @property
    def _split_folders(self) -> dict[str, tuple[Path, Path]] | None:
        folders = find_split_folders(self.path)
        # a record tells which images of folders that are named like splits are in which
        is_recorded = self.splits is not None and not (self.path / "train").is_dir()
        return None if is_recorded else folders

    @property
    def is_split_by_seed(self) -> bool:
        """Whether the split is made here, and not by folders."""
        return self._split_folders is None

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as `splits` takes them from a JSON file."""
        return {split: [pair.name for pair in pairs] for split, pairs in self._found().items()}

    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of "train", "val" and "test" (empty where there is none).

        Raises:
            UserError: Folders or partners of files are missing, or the recorded split does not fit the files.
        """
        if not self.path.is_dir():
            raise UserError(f"path: {self.path} is not a folder: give the data set's folder")
        if self._split_folders is not None:
            return self._given_splits(self._split_folders)
        if not (self.path / "images").is_dir():
            raise UserError(f"path: {self.path} holds neither 'train' nor 'images': see ImageMaskFolder for the layout")
        pairs = find_pairs(self.path / "images", self.path / "masks", self.image_suffix, self.mask_suffix)
        names = [pair.name for pair in pairs]
        if self.splits is None:
            record = seeded_split(names, self.val_fraction, self.test_fraction, self.split_seed)
        else:
            record = read_split_record(self.splits, names)
        pair_of_name = {pair.name: pair for pair in pairs}
        return {split: [pair_of_name[name] for name in record[split]] for split in SPLITS}

    def _given_splits(self, folders: dict[str, tuple[Path, Path]]) -> dict[str, list[Pair]]:
        if self.splits is not None:
            raise UserError(f"splits: {self.path} is split by its folders: leave splits out")
        if "val" not in folders:
            raise UserError(f"{self.path / 'val'}: no such folder: add one beside 'train', or let images be split")
        return {
            split: find_pairs(*folders[split], self.image_suffix, self.mask_suffix) if split in folders else []
            for split in SPLITS
        }

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file cannot be used, a label is unknown, or there are too few samples or classes to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            if self._pairs_of(split):
                self.counts[split] = self._count(split)
                if not any(self.counts[split][name] for name in self.class_names):
                    raise UserError(f"{self.path}: every pixel of the {split} masks is ignored: see ignore_labels")
            elif split != "test":
                raise UserError(f"{self.path}: the {split} split is empty: more images are needed")
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
            raise UserError("crop_size: null: give the height and width of training samples, e.g. [644, 644]")
        crop_size = (self.crop_size[0], self.crop_size[1])
        transform = TrainTransform(crop_size, self.scale_range, self.flip, self.color_jitter)
        outliers = OutlierPaste(self.outliers, self.outlier_probability) if self.outliers is not None else None
        return self.training_loader(
            AugmentedDataset(self._masked_dataset("train"), transform, outliers), self._training_sampler()
        )

    def _training_sampler(self) -> RepeatFactorSampler | None:
        if self.repeat_factor_threshold is None:
            return None
        factors = repeat_factors(self._classes_present("train"), self.repeat_factor_threshold)
        return RepeatFactorSampler(factors, self._world_size, self._rank, self._run_seed)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images at their own size, in order."""
        return self.evaluation_loader(self._masked_dataset("val"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test images at their own size, in order.

        Raises:
            UserError: There is no test split.
        """
        if not self._pairs_of("test"):
            raise UserError(f"{self.path}: no test split: use validate, add a 'test' folder, or set test_fraction")
        return self.evaluation_loader(self._masked_dataset("test"))

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return images without masks: those of `predict_path`, or else of the test split, or else of val.

        Raises:
            UserError: `predict_path` does not exist or holds no image.
        """
        return self.evaluation_loader(ImageDataset(self._files_to_predict()))

    def _files_to_predict(self) -> list[tuple[str, ImageFile]]:
        if self.predict_path is None:
            pairs = self._pairs_of("test") or self._pairs_of("val")
            return [(pair.name, pair.image) for pair in pairs]
        return list(find_images(self.predict_path, "predict_path").items())

    def _masked_dataset(self, split: str) -> ImageMaskDataset:
        return ImageMaskDataset(self._pairs_of(split), self._label_table(), self.class_colors)

    def _label_table(self) -> LabelTable:
        return LabelTable(self.num_classes, self.class_map, self.ignore_labels)

    def _pairs_of(self, split: str) -> list[Pair]:
        return self._found()[split]

    def _found(self) -> dict[str, list[Pair]]:
        if self._pairs is None:
            self._pairs = self.find_splits()
        return self._pairs

    def _scan(self, split: str) -> list[dict[int, int]]:
        if split not in self._histograms:
            self._histograms[split] = scan_pairs(self._pairs_of(split), self.class_colors, f"Checking {split} files")
        return self._histograms[split]

    def _classes_present(self, split: str) -> list[set[int]]:
        """Return the classes that each image of a split shows."""
        table = self._label_table()
        return [
            table.classes_present(histogram, pair.mask)
            for pair, histogram in zip(self._pairs_of(split), self._scan(split), strict=True)
        ]

    def _count(self, split: str) -> dict[str, int]:
        classes_of_images = self._classes_present(split)
        return {"images": len(classes_of_images)} | {
            name: sum(class_id in classes for classes in classes_of_images)
            for class_id, name in enumerate(self.class_names)
        }
