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
from datamodules.objects.coco_files import CocoAnnotation, CocoFile, read_coco
from datamodules.objects.coco_layouts import find_sources, locate
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

    def find_class_names(self) -> list[str]:
        """Return the names of the categories, in the order of their ids.

        Raises:
            UserError: The files list different categories, or none.
        """
        files = list(self._files.values())
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
        if not self._used_categories:
            raise UserError(f"{first.source}: has no annotations; give one of annotated images")
        kept = [
            (category_id, name)
            for category_id, name in first.categories.items()
            if category_id in self._used_categories or not any(name in file.groups for file in files)
        ]
        if left_out := [name for name in first.categories.values() if name not in {name for _, name in kept}]:
            log.info("%s: %s only stands for others, and is left out", first.source, listed(left_out))
        return [name for _, name in kept]

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of the files.

        Raises:
            UserError: A file cannot be read, names no image that is there, or has a category that is no class.
        """
        located = locate(self._files, self.path, self.images)
        return {
            split: [
                AnnotatedImage(name, file, frozenset(annotation.class_ids), annotation)
                for (name, file), annotation in zip(located[split], self._annotations_of(found), strict=True)
            ]
            for split, found in self._files.items()
        }

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

    @cached_property
    def _files(self) -> dict[str, CocoFile]:
        given = self.annotations
        sources = find_sources(self.path) if given is None else {UNSPLIT: given} if isinstance(given, Path) else given
        return {split: read_coco(source) for split, source in sources.items()}

    @cached_property
    def _used_categories(self) -> set[int]:
        return {key for file in self._files.values() for image in file.images for key in image.category_ids}


def _expanded(annotations: Path | Mapping[str, Path] | None) -> Path | dict[str, Path] | None:
    if not isinstance(annotations, Mapping):
        return expand(annotations)
    if not {"train", "val"} <= annotations.keys() <= set(SPLITS):
        raise UserError(f"annotations: files of {listed(annotations)}; name those of train and val, and maybe of test")
    return {split: expand(annotations[split]) for split in SPLITS if split in annotations}
