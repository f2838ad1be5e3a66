"""Steel defects and other images with masks of objects."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch.utils.data import DataLoader

from datamodules.common.checks import as_size, check_class_names, check_fractions
from datamodules.common.data_module import NetworkFact
from datamodules.common.grouped_splits import Group, refuse_overlap
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.reading import check_image, orientation_of
from datamodules.common.splits import SEEDED, SPLITS, SPLITS_OF_STAGE
from datamodules.common.threads import map_in_threads
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.common.zip_members import ImageFile
from datamodules.defects.layouts import AnnotationLayout, MaskLayout, find_layout
from datamodules.objects.annotation import AnnotatedImage, Grouping
from datamodules.objects.datasets import collate_objects
from datamodules.objects.prompted import AugmentedPromptableDataset, PromptableDataset, ask
from datamodules.objects.splits import files_of, groups_of, split_images
from eomt.errors import UserError
from eomt.utils.paths import expand

DEFAULT_IMAGE_SIZE = 1024


class Severstal(ImageDataModule):
    """Images with masks of objects to be prompted: Severstal's steel strips, or others in the same layouts.

    `path` holds Kaggle's `train.csv` and `train_images`; or `train_split`, `val_split` and optionally `test_split`
    (or `train`, `val`, `test`), each with `img` and `ann` (Supervisely's JSON) or `images` and `masks` (0 is
    background, class id i is i + 1); or such a pair itself. Where no folders say so, the split is seeded: copies of
    an image stay together, classes keep their share.

    Batches are dicts: `image` (B, 3, *img_size) uint8 RGB, squashed to that size; `masks`, list of B tensors
    (N, h, w) bool, one mask for each object, see `objects`; `class_ids`, list of B tensors (N,) int64; `name`, list of
    B file names. In training h, w is the image size; in evaluation it is that of the file. In evaluation a
    sample with an empty name is padding of a rank.

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; the command line fills in the network's;
            null for 1024. [256, 1600] is Severstal's own.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        class_names: Names of the classes, by class id; Supervisely's titles must be among them. Null for
            Severstal's, or for what the titles or masks of all splits show.
        include_clean: Whether images without a defect take part; they serve only a mode without prompts.
        augment: Whether training images are mirrored both ways and vary in brightness and contrast, at random. "mirror"
            does only the former: a frozen image encoder then computes the four views of an image once, see
            `model.feature_cache`.
        val_fraction: Share of validation where the split is seeded.
        test_fraction: Share of test where the split is seeded.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        predict_path: Images to predict: files, folders and patterns, one or a list; null for the images of the data
            set that `prompts` names, or without prompts those of test, or else val. Their masks are never looked at.
        prompts: What `predict` is asked about: boxes or points in pixels of the upright images, as COCO JSON, or as a
            CSV or a list in JSON with columns file, x0, y0, x1, y1, or file, x, y, point_label, object; and label. See
            `datamodules.objects.prompt_files`.
        objects: What has a mask, and a prompt, of its own: all that an image shows of a "class", each connected
            "component" of that, or each "instance" that is annotated: a row of the table, an object of Supervisely's.
        **reading: Fields of `ImageDataModule`: how stored values become RGB, and how many training images are used.

    Attributes:
        counts: After `setup`, per split the number of "images", and under each class name of those that contain it.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    collate = staticmethod(collate_objects)
    from_network: ClassVar[Mapping[str, NetworkFact]] = {"img_size": "img_size"}

    def __init__(
        self,
        path: Path,
        batch_size: int = 1,
        img_size: int | tuple[int, int] | None = None,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        class_names: list[str] | None = None,
        include_clean: bool = False,
        augment: bool | Literal["mirror"] = True,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        splits: Path | None = None,
        predict_path: PredictPath = None,
        prompts: Path | None = None,
        objects: Grouping = "class",
        **reading: Any,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path, **reading)
        check_fractions(val_fraction, test_fraction)
        check_class_names(class_names)
        self.path = expand(path)
        self.img_size = as_size(img_size, DEFAULT_IMAGE_SIZE)
        self.include_clean = include_clean
        self.augment = augment
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.splits = expand(splits)
        self.prompts = expand(prompts)
        self.objects = objects
        self._class_names = class_names
        self._layouts: dict[str, AnnotationLayout] | None = None
        self._split_samples: dict[str, list[AnnotatedImage]] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class id; where no field states them, annotations may be read to find them."""
        if self._class_names is None:
            layouts = list(self._found_layouts().values())
            self._class_names = layouts[0].class_names(set().union(*(layout.labels() for layout in layouts)))
        return list(self._class_names)

    @property
    def repeats_images(self) -> bool:
        """Whether training images are at most mirrored."""
        return self.augment is not True

    @property
    def is_split_by_seed(self) -> bool:
        """True where the split is made here, and not by folders."""
        return (self.path / "train.csv").is_file() or self._split_folder("train") is None

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as `splits` takes them from a JSON file.

        Images without a defect are listed too: they have a split of their own whether they take part or not.
        """
        return {split: [sample.name for sample in samples] for split, samples in self._found().items()}

    def split_groups(self) -> list[Group]:
        """Return copies of an image together."""
        found = self._found()
        return groups_of([*found["train"], *found["val"]])

    def found_arguments(self) -> dict[str, Any]:
        """Return the names of the classes."""
        return {"class_names": self.class_names}

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file or an annotation cannot be used, or there are too few samples to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            samples = self._samples(split)
            if not samples and split != "test":
                raise UserError(f"{self.path}: the {split} split is empty; more annotated images are needed")
            if samples:
                map_in_threads(_check_sample, samples, f"Checking {split} files")
                counts = {"images": len(samples)}
                for class_id, name in enumerate(self.class_names):
                    counts[name] = sum(class_id in sample.classes for sample in samples)
                self.counts[split] = counts
        if stage in ("fit", None):
            self._check_batch_size(self.counts["train"]["images"])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled, augmented batches; what does not fill a batch is left out."""
        flip, color_jitter = bool(self.augment), self.augment is True
        dataset = AugmentedPromptableDataset(self._samples("train"), self.img_size, flip, color_jitter, self.objects)
        return self.training_loader(dataset)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images, in order."""
        return self._defect_loader(self._samples("val"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test images, in order.

        Raises:
            UserError: There is no test split.
        """
        if not self._samples("test"):
            raise UserError(f"{self.path}: no test split; use validate, add a 'test' folder, or set test_fraction")
        return self._defect_loader(self._samples("test"))

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return images with what is asked about them, and without masks.

        Batches are dicts: `image` as in training; `size`, list of B (height, width) of the files; `name`; with a file
        of prompts also lists of B: `prompts`, Prompts or None, `labels`, N texts each, and `class_ids`, int64 (N,), or
        None for an image with a label that is no class.

        Raises:
            UserError: `predict_path` does not exist or holds no image, or the prompts do not fit the images.
        """
        files = self._files_to_predict()
        names = [] if self.prompts is None else self.class_names
        dataset = ask(files, self.img_size, self.prompts, names, self.predict_path is not None)
        return self.prediction_loader(dataset, dict(dataset.files), dataset.blank())

    def has_prompts(self) -> bool:
        """Return whether `predict` is given prompts."""
        return self.prompts is not None

    def _files_to_predict(self) -> dict[str, ImageFile]:
        if self.predict_path is not None:
            return {name: self.converted(file) for name, file in find_images(self.predict_path).items()}
        if self.prompts is not None:
            # all of the data set may be prompted
            return files_of(self._found())
        samples = self._samples("test") or self._samples("val")
        return {sample.name: sample.image for sample in samples}

    def _defect_loader(self, samples: list[AnnotatedImage]) -> DataLoader[dict[str, Any]]:
        return self.evaluation_loader(PromptableDataset(samples, self.img_size, self.objects))

    def _samples(self, split: str) -> list[AnnotatedImage]:
        samples = [sample for sample in self._found()[split] if sample.classes or self.include_clean]
        return self.training_part(samples, lambda sample: sample.name) if split == "train" else samples

    def _found(self) -> dict[str, list[AnnotatedImage]]:
        if self._split_samples is None:
            found = self._seeded_splits() if self.is_split_by_seed else self._given_splits()
            self._split_samples = {
                split: [replace(sample, image=self.converted(sample.image)) for sample in samples]
                for split, samples in found.items()
            }
            # a new split keeps copies together by itself; those that take no part do no harm
            if self.splits is not None or not self.is_split_by_seed:
                refuse_overlap({split: [sample.image for sample in self._samples(split)] for split in SPLITS})
        return self._split_samples

    def _given_splits(self) -> dict[str, list[AnnotatedImage]]:
        if self.splits is not None:
            raise UserError(f"splits: {self.path} is split by its folders; leave splits out")
        self.note_unused(SEEDED, f"{self.path} is split by its folders")
        found = {split: layout.samples(self.class_names) for split, layout in self._found_layouts().items()}
        return {split: found.get(split, []) for split in SPLITS}

    def _seeded_splits(self) -> dict[str, list[AnnotatedImage]]:
        samples = self._found_layouts()["all"].samples(self.class_names)
        return split_images(samples, self.val_fraction, self.test_fraction, self.split_seed, self.splits)

    def _found_layouts(self) -> dict[str, AnnotationLayout]:
        """Return the layout of each split's folder, or that of "all"."""
        if self._layouts is None:
            if not self.path.is_dir():
                raise UserError(f"path: {self.path} is not a folder; give the data set's folder")
            if self.is_split_by_seed:
                self._layouts = {"all": find_layout(self.path)}
            else:
                folders = {split: self._split_folder(split) for split in SPLITS}
                if folders["val"] is None:
                    raise UserError(
                        f"{self.path / 'val'}: no such folder, nor val_split; add one beside the train split"
                    )
                self._layouts = {split: find_layout(folder) for split, folder in folders.items() if folder}
            for layout in self._layouts.values():
                if self.objects == "instance" and isinstance(layout, MaskLayout):
                    raise UserError(
                        f"objects: instance, but the masks in {layout.folder} hold classes alone; give component, "
                        "which parts what does not touch, or class"
                    )
        return self._layouts

    def _split_folder(self, split: str) -> Path | None:
        folders = (self.path / f"{split}_split", self.path / split)
        return next((folder for folder in folders if folder.is_dir()), None)


def _check_sample(sample: AnnotatedImage) -> None:
    """Raise a UserError unless the image can be read and the annotation fits it."""
    sample.annotation.objects(check_image(sample.image), orientation_of(sample.image))
