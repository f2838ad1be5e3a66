"""Common parts of the data modules of faces: their size, and faces without labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from datamodules.common.checks import as_size, check_fractions
from datamodules.common.data_module import NetworkFact
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.pairs import find_images
from datamodules.faces.folders import Face, identities_in_path
from eomt.utils.paths import expand

DEFAULT_SIZE = 224


class FaceDataModule(ImageDataModule):
    """Loaders of faces at one size.

    Args:
        path: Folder or CSV file of the data set.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; null for 224.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        val_fraction: Share of validation where the split is seeded.
        test_fraction: Share of test where the split is seeded.
        predict_path: Folder of images, or one image, to predict; null for images of the data set.

    Raises:
        UserError: A field has an impossible value.
    """

    from_network: ClassVar[Mapping[str, NetworkFact]] = {"img_size": "img_size"}

    def __init__(
        self,
        path: Path,
        batch_size: int,
        img_size: int | tuple[int, int] | None,
        eval_batch_size: int,
        num_workers: int,
        val_fraction: float,
        test_fraction: float,
        predict_path: Path | None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path)
        check_fractions(val_fraction, test_fraction)
        self.path = expand(path)
        self.img_size = as_size(img_size, DEFAULT_SIZE)
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction


def find_unlabeled_faces(path: Path, field: str, identity_pattern: str | None = None) -> list[Face]:
    """Return all images below a folder, or one image.

    Args:
        path: Folder or image.
        field: Its name in errors.
        identity_pattern: Regular expression that finds the people in a file's name, or else in its folders.

    Raises:
        UserError: There is none; the field is named.
    """
    return [
        Face(name, file, 0, identities=identities_in_path(name, identity_pattern))
        for name, file in find_images(path, field).items()
    ]
