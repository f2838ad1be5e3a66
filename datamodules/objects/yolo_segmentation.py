"""Data sets in YOLO's format, with polygons."""

from functools import cached_property

from datamodules.objects.annotation import AnnotatedImage
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.yolo_files import YoloFolder, read_yolo
from eomt.errors import UserError


class YoloSegmentation(ObjectDataModule):
    """Images with polygons in YOLO's format, as Ultralytics, Roboflow, CVAT, Label Studio and supervision write it.

    `path` is a `data.yaml`, or a folder with one (or with `classes.txt`), which names the classes and, for each split,
    a folder of images or a list of them. The text file of an image lies in `labels` in the place of `images`, or beside
    it, and holds `class x y x y ...` a line, in shares of width and height of the image as it is turned. An image
    without one shows nothing. Where only one split is named, a seed splits.

    Fields are those of `ObjectDataModule`.
    """

    def find_class_names(self) -> list[str]:
        """Return the names that the description gives."""
        return self._read.class_names

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of each split that is named, or of "all".

        Raises:
            UserError: Files are missing or cannot be read, or `class_names` are more or fewer than those of the files.
        """
        names = self._read.class_names
        if len(self.object_names) != len(names):
            raise UserError(f"class_names: {len(self.object_names)} names, but {self.path} has {len(names)} classes")
        return self.without_lone_split(self._read.splits)

    @cached_property
    def _read(self) -> YoloFolder:
        return read_yolo(self.path)
