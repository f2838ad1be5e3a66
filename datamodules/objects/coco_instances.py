"""COCO's instances, as many tools export them."""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.reading import check_image, orientation_of
from datamodules.common.splits import SPLITS
from datamodules.objects.annotation import AnnotatedImage
from datamodules.objects.coco_files import CocoAnnotation, CocoFile, read_classes, read_coco
from datamodules.objects.coco_layouts import Located, find_sources, locate, tell_of_unnamed
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.splits import UNSPLIT
from eomt.errors import UserError, listed, shortened
from eomt.utils.paths import expand

log = logging.getLogger("eomt")


class CocoInstances(ObjectDataModule):
    """Images with objects in COCO's JSON: polygons or run lengths, compressed or not, and crowds.

    `path` holds one of these layouts, which exports of that kind were tried with, or `annotations` and `images` say
    where the files are:

    - COCO's: `annotations/instances_train2017.json` and `instances_val2017.json`; `train2017` and `val2017`, maybe in
      `images`
    - Roboflow's: `train`, `valid` and maybe `test`, each with `_annotations.coco.json` beside its images; a category
      that only stands for all others, and has no annotation, is left out
    - CVAT's: `annotations/instances_default.json` and `images`, maybe with a folder `default`
    - Label Studio's: `result.json` and `images`, also with backslashes, or marks before names that the files lack

    One JSON file is split by a seed. Classes are the categories, in the order of their ids, which may have gaps; all
    files must list the same, unless `class_names` is given, and then names decide. Coordinates are pixels of the stored
    image, or, where width and height stand in the JSON as they are after the turn that its EXIF data states, of the
    turned one. A polygon is filled as pycocotools fills it; one that holds the middle of no pixel gets those of its
    points. Batches are those of `ObjectDataModule`.

    Args:
        path: Folder of the data set.
        annotations: A JSON file, or one for each split: {train: FILE, val: FILE, test: FILE}; null looks for them.
        images: Folder of the images; null looks for it.
        **common: Fields of `ObjectDataModule`.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: Path,
        annotations: Path | dict[str, Path] | None = None,
        images: Path | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, **common)
        self.annotations = _expanded(annotations)
        self.images = expand(images)
        self._compares_splits = False
        self._known: dict[str, tuple[Located, list[AnnotatedImage]]] = {}
        self._alone: dict[str, list[AnnotatedImage]] = {}

    def find_class_names(self) -> list[str]:
        """Return the names of the categories, in the order of their ids.

        Raises:
            UserError: The files list different categories, or none.
        """
        files = [read_classes(source) for source in self._sources.values()]
        used = frozenset().union(*(file.used for file in files))
        first = files[0]
        for other in files[1:]:
            for category_id in sorted(first.categories.keys() | other.categories.keys()):
                names = [file.categories.get(category_id) for file in (first, other)]
                if names[0] != names[1]:
                    spelled = [f"is {shortened(name)!r}" if name else "is not there" for name in names]
                    raise UserError(
                        f"{other.source}: category id {category_id} {spelled[1]}, but in {first.source} it "
                        f"{spelled[0]}; list the same categories in all files, or give class_names"
                    )
        if not used:
            raise UserError(f"{first.source}: has no annotations; give one of annotated images")
        kept = [
            (category_id, name)
            for category_id, name in first.categories.items()
            if category_id in used or not any(name in file.groups for file in files)
        ]
        if left_out := [name for name in first.categories.values() if name not in {name for _, name in kept}]:
            log.info("%s: %s only stands for others, and is left out", first.source, listed(left_out))
        return [name for _, name in kept]

    @property
    def is_split_by_seed(self) -> bool:
        """True where there is one file, and so no split."""
        return UNSPLIT in self._sources

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of the files, and say which images these do not name.

        Raises:
            UserError: A file cannot be read, names no image that is there, or has a category that is no class.
        """
        found = {split: self._read(split) for split in self._sources}
        tell_of_unnamed([located for located, _ in found.values()])
        return {split: images for split, (_, images) in found.items()}

    def images_of(self, split: str) -> list[AnnotatedImage]:
        """Return the images of "train", "val" or "test"; but for a fit, the file of this split alone is read.

        Raises:
            UserError: Files are missing, or cannot be read.
        """
        if self._compares_splits or self.is_split_by_seed or self.splits is not None:
            return super().images_of(split)
        if split not in self._alone:
            self._alone[split] = self.all_converted(self._read(split)[1]) if split in self._sources else []
        return self._alone[split]

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`; a fit compares all splits, too.

        Raises:
            UserError: A file or an annotation cannot be used, or there are too few images or objects to train.
        """
        self._compares_splits |= stage in ("fit", None)
        super().setup(stage)

    def look_at(self, image: AnnotatedImage) -> np.ndarray:
        """Return the class ids of an image's objects, (N,) int64, after a look at its file."""
        annotation = image.annotation
        assert isinstance(annotation, CocoAnnotation)
        if self.target == "panoptic" or self.objects != "instance":
            return super().look_at(image)
        # all masks were looked at when the JSON was read
        annotation.turn(check_image(image.image), orientation_of(image.image))
        return np.array(annotation.class_ids, dtype=np.int64)

    def _annotations_of(self, file: CocoFile) -> list[CocoAnnotation]:
        class_of_name = {name: class_id for class_id, name in enumerate(self.object_names)}
        class_of = {
            category_id: class_of_name[name] for category_id, name in file.categories.items() if name in class_of_name
        }
        for image in file.images:
            for category_id in image.category_ids:
                if category_id not in class_of:
                    name = shortened(file.categories[category_id])
                    raise UserError(
                        f"{file.source}: category id {category_id} ({name!r}), which image id {image.id!r} shows, is "
                        f"not among class_names ({listed(self.object_names, most=5)})"
                    )
        return [CocoAnnotation(image, tuple(class_of[key] for key in image.category_ids)) for image in file.images]

    def _read(self, split: str) -> tuple[Located, list[AnnotatedImage]]:
        """Read the file of a split, once."""
        if split not in self._known:
            file = read_coco(self._sources[split])
            located = locate(file, self.path, self.images)
            images = [
                AnnotatedImage(name, located.root / name, frozenset(annotation.class_ids), annotation)
                for name, annotation in zip(located.names, self._annotations_of(file), strict=True)
            ]
            self._known[split] = located, images
        return self._known[split]

    @cached_property
    def _sources(self) -> dict[str, Path]:
        given = self.annotations
        return find_sources(self.path) if given is None else {UNSPLIT: given} if isinstance(given, Path) else given


def _expanded(annotations: Path | Mapping[str, Path] | None) -> Path | dict[str, Path] | None:
    if not isinstance(annotations, Mapping):
        return expand(annotations)
    if not {"train", "val"} <= annotations.keys() <= set(SPLITS):
        raise UserError(f"annotations: files of {listed(annotations)}; name those of train and val, and maybe of test")
    return {split: expand(annotations[split]) for split in SPLITS if split in annotations}
