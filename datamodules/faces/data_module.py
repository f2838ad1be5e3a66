"""What the data modules of faces have in common: their size, and faces without labels."""

from pathlib import Path

from datamodules.common.data_module import ImageDataModule, check_fractions, find_images
from datamodules.faces.folders import Face
from eomt.errors import UserError

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

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: str,
        batch_size: int,
        img_size: int | tuple[int, int] | None,
        eval_batch_size: int,
        num_workers: int,
        val_fraction: float,
        test_fraction: float,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_fractions(val_fraction, test_fraction)
        img_size = DEFAULT_SIZE if img_size is None else img_size
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < 1:
            raise UserError(f"img_size: {[height, width]}: must be at least 1 pixel each way")
        self.path = Path(path)
        self.img_size = (height, width)
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction


def find_unlabelled_faces(path: Path, field: str) -> list[Face]:
    """Return all images below a folder, or one image.

    Raises:
        UserError: There is none; the field is named.
    """
    return [Face(name, file, 0) for name, file in find_images(path, field).items()]
