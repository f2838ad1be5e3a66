"""Faces without labels."""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from datamodules.common.splits import SPLITS, SPLITS_OF_STAGE, read_split_record, seeded_split
from datamodules.common.threads import map_in_threads
from datamodules.common.to_predict import PredictPath
from datamodules.faces.boxes import with_boxes
from datamodules.faces.data_module import FaceDataModule, find_unlabeled_faces
from datamodules.faces.dataset import UnlabeledFaces, check_face
from datamodules.faces.folders import Face
from datamodules.faces.transforms import PretrainingTransform
from eomt.errors import UserError
from eomt.utils.paths import expand


class FaceFolder(FaceDataModule):
    """All images below a folder, for pre-training without labels; validation is split off by a seed.

    Images on which a detector will be tested do not belong here: it would have seen them.

    Batches are dicts: `image` (B, 3, *img_size) uint8 RGB, and lists of B strings: `path`, and `name` relative to
    `path`. Training images are random crops of a fifth to all of the image, resized, half of them mirrored. In
    evaluation a sample with an empty name is padding of a rank.

    Args:
        path: Folder of images.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; the command line fills in the network's; null
            for 224.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        face_boxes: Names of text files in the folder with lines `path x1 x2 y1 y2`; null for whole images.
        val_fraction: Share of validation.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        predict_path: Images to predict: files, folders and patterns, one or a list; null for
            the images of validation.
        train_share: Share of the training images that is used, see `ImageDataModule`.

    Attributes:
        counts: After `setup`, per split the number of "images".

    Raises:
        UserError: Fields have impossible values.
    """

    def __init__(
        self,
        path: Path,
        batch_size: int = 64,
        img_size: int | tuple[int, int] | None = None,
        eval_batch_size: int = 64,
        num_workers: int = 2,
        face_boxes: list[str] | None = None,
        val_fraction: float = 0.05,
        split_seed: int = 0,
        splits: Path | None = None,
        predict_path: PredictPath = None,
        train_share: float = 1.0,
    ) -> None:
        super().__init__(
            path, batch_size, img_size, eval_batch_size, num_workers, val_fraction, 0.0, predict_path, train_share
        )
        self.face_boxes = face_boxes
        self.split_seed = split_seed
        self.splits = expand(splits)
        self._split_faces: dict[str, list[Face]] | None = None

    @property
    def is_split_by_seed(self) -> bool:
        """True, for folders say nothing of splits."""
        return True

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split, as `splits` takes them from a JSON file."""
        return {split: [face.name for face in faces] for split, faces in self._found().items()}

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file cannot be used, or there are too few samples to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            faces = self._used(split)
            if faces:
                map_in_threads(check_face, faces, f"Checking {split} files")
                self.counts[split] = {"images": len(faces)}
            elif split != "test":
                raise UserError(f"{self.path}: the {split} split is empty; more images are needed")
        if stage in ("fit", None):
            self._check_batch_size(len(self._used("train")))

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled random crops; what does not fill a batch is left out."""
        faces = self._used("train")
        dataset = UnlabeledFaces(faces, self.img_size, PretrainingTransform(self.img_size))
        return self.training_loader(dataset)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images, in order."""
        faces = self._found()["val"]
        return self.evaluation_loader(UnlabeledFaces(faces, self.img_size, None))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Raise a UserError: without labels there is nothing to test."""
        raise UserError(f"{self.path}: images without labels have no test split; use validate")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images of `predict_path`, or else of validation.

        Raises:
            UserError: `predict_path` does not exist or holds no image.
        """
        if self.predict_path is None:
            return self.faces_to_predict(self._found()["val"])
        return self.faces_to_predict(find_unlabeled_faces(self.predict_path, "predict_path"))

    def _used(self, split: str) -> list[Face]:
        faces = self._found()[split]
        return self.training_part(faces, lambda face: face.name) if split == "train" else faces

    def _found(self) -> dict[str, list[Face]]:
        if self._split_faces is None:
            if not self.path.is_dir():
                raise UserError(f"path: {self.path} is not a folder; give the folder of images")
            faces = find_unlabeled_faces(self.path, "path")
            if self.face_boxes is not None:
                faces = with_boxes(faces, self.path, self.face_boxes)
            face_of = {face.name: face for face in faces}
            if self.splits is None:
                record = seeded_split(list(face_of), self.val_fraction, 0.0, self.split_seed)
            else:
                record = read_split_record(self.splits, list(face_of))
            self._split_faces = {split: [face_of[name] for name in record[split]] for split in SPLITS}
        return self._split_faces
