"""Data sets of LabelMe's JSON."""

from functools import cached_property
from pathlib import Path

from datamodules.common.splits import split_folders, tell_of_others
from datamodules.objects.annotation import AnnotatedImage
from datamodules.objects.data_module import ObjectDataModule
from datamodules.objects.labelme_files import find_labelme, read_labelme, read_labels
from datamodules.objects.splits import UNSPLIT
from eomt.errors import UserError


class LabelMe(ObjectDataModule):
    """Images with LabelMe's JSON, a file for each image, as labelme, AnyLabeling and X-AnyLabeling write it.

    `path` holds the files, or `train`, `val` and, maybe, `test`, each with files; without these a seed splits. The
    image of a file is that which `imagePath` names, else the one beside it of the same name, else the one inside of it
    (`imageData`); an image without a file is left out, which the log says. Polygons, rectangles, circles and masks are
    read; shapes of one label and one `group_id` are parts of one object. Classes are the labels that occur,
    sorted, or `class_names`.

    Fields are those of `ObjectDataModule`.
    """

    def find_class_names(self) -> list[str]:
        """Return the labels of all splits, sorted."""
        return sorted({label for _, _, labels in self._files.values() for found in labels for label in found})

    def find_splits(self) -> dict[str, list[AnnotatedImage]]:
        """Return the images of each folder that is named like a split, or of "all".

        Raises:
            UserError: Files are missing or cannot be read.
        """
        return {
            split: read_labelme(folder, names, labels, self.object_names)
            for split, (folder, names, labels) in self._files.items()
        }

    @cached_property
    def _files(self) -> dict[str, tuple[Path, list[str], list[frozenset[str]]]]:
        """Folder, names of JSON files in it, and their labels, by split."""
        if not self.path.is_dir():
            raise UserError(f"path: {self.path} is not a folder; give the data set's folder")
        folders = split_folders(self.path)
        if len(folders) < 2:
            folders = {UNSPLIT: self.path}
        else:
            tell_of_others(self.path, folders.values())
        found = {split: (folder, find_labelme(folder)) for split, folder in folders.items()}
        for folder, names in found.values():
            if not names:
                raise UserError(f"{folder}: no JSON file of LabelMe; put them there, beside their images")
        return {split: (folder, names, read_labels(folder, names)) for split, (folder, names) in found.items()}
