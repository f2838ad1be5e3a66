"""Common parts of the data modules of faces: their size, and faces without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from datamodules.common.checks import as_size, check_fractions
from datamodules.common.data_module import NetworkFact
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.faces.dataset import FaceDataset, UnlabeledFaces, blank_face
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
        predict_path: Images to predict: files, folders and patterns, one or a list; null for
            images of the data set.
        train_share: See `ImageDataModule`.

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
        predict_path: PredictPath,
        train_share: float = 1.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path, train_share=train_share)
        check_fractions(val_fraction, test_fraction)
        self.path = expand(path)
        self.img_size = as_size(img_size, DEFAULT_SIZE)
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction

    def faces_to_predict(self, faces: Sequence[Face], labeled: bool = False) -> DataLoader[dict[str, Any]]:
        """Return the faces that are not predicted yet, in order.

        Args:
            faces: With different names.
            labeled: Whether labels are known, and batches tell them.
        """
        dataset = FaceDataset(faces, self.img_size) if labeled else UnlabeledFaces(faces, self.img_size, None)
        files = {face.name: face.image for face in faces}
        return self.prediction_loader(dataset, files, blank_face(self.img_size, labeled))


def find_unlabeled_faces(path: Path | list[Path], field: str, identity_pattern: str | None = None) -> list[Face]:
    """Return the images that files, folders and patterns stand for, see `find_images`.

    Args:
        path: One or several of them.
        field: Its name in errors.
        identity_pattern: Regular expression that finds the people in a file's name, or else in its folders.

    Raises:
        UserError: There is none; the field is named.
    """
    return [
        Face(name, file, 0, identities=identities_in_path(name, identity_pattern))
        for name, file in find_images(path, field).items()
    ]
