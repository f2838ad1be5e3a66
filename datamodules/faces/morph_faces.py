"""Bona fide faces and morphs."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.common.balanced_sampling import BalancedSampler
from datamodules.common.sampling import TrainingSampler
from datamodules.common.splits import SEEDED, SPLITS, SPLITS_OF_STAGE, read_split_record
from datamodules.common.threads import map_in_threads
from datamodules.common.to_predict import PredictPath
from datamodules.faces.data_module import FaceDataModule, find_unlabeled_faces
from datamodules.faces.data_sets import name_test_sets, read_data_set
from datamodules.faces.dataset import AugmentedFaces, FaceDataset, check_face, interleaved, read_face
from datamodules.faces.folders import CLASS_NAMES, Face, check_identity_pattern
from datamodules.faces.identity_splits import (
    FaceSplit,
    by_folds,
    by_fractions,
    by_validation,
    copies_of,
    leave_out,
    refuse_leaks,
    refuse_pretrained,
    split_by_identity,
)
from datamodules.faces.shortcuts import warn_about_shortcuts
from datamodules.faces.statistics import count_faces, warn_about_few, warn_about_strangers, warn_about_unknown
from datamodules.faces.transforms import MorphTransform
from eomt.errors import UserError, shortened
from eomt.utils.paths import expand

log = logging.getLogger("eomt")

Measured = TypeVar("Measured")

LARGEST_MAGNITUDE = 30
FEWEST_FOLDS = 3


class MorphFaces(FaceDataModule):
    """Bona fide photos and morphs, split so that no person is on two sides.

    `path` is a folder with `bonafide` and `morph/<attack>`; or SMDD (`o25k_bf_t`, `m15k_t`); or FRLL-, FRGC- or
    FERET-Morphs (`raw`, `morph_<attack>`); or it holds `train`, `val` and optionally `test`, each in one of these
    layouts; or it is a CSV file: `path,label[,attack,subject_a,subject_b,split]`. Where neither folders nor a column
    say so, people are split by a seed, and morphs of people on different sides are dropped: few, for people who are
    in many morphs together are kept together. In a given split, a person,
    file or copy that is on two sides is refused. Names of people are compared as `folders.identity_of` spells them,
    and copies by their pixels.

    Batches are dicts: `image` (B, 3, *img_size) uint8 RGB, `label` (B,) int64, 1 = morph, and lists of B strings:
    `path`; `attack`, "" for bona fide; `dataset`, the name of the data set; `name`, relative to `path`. In evaluation a
    sample with an empty name is padding of a rank. Images are cut to the proportions of `img_size`, not squashed.

    Args:
        path: Folder or CSV file of the data set.
        batch_size: Training samples per step and process.
        img_size: Height and width of images, one number for a square; the command line fills in the network's; null
            for 224.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        test_paths: Further sets that are tested, never trained on or selected by: folders or CSV files by their names,
            or a list of them. Of a set with splits its test split is taken.
        identity_pattern: Regular expression that finds the people in a file's name, or else in its folders: each match,
            or its first group. In SMDD and in FRLL-, FRGC- and FERET-Morphs those sets' own patterns are tried as
            well. Null takes a folder below `bonafide` for a person; "" does not.
        shared_identities: Whether equal identities in `path` and in a test set are one person, who may then not be in
            training; false where two sets number their people anew.
        face_boxes: Names of text files in each data set's folder with lines `path x1 x2 y1 y2`; null for whole images.
        balanced: Whether training draws both classes equally often.
        augment: Whether training images are changed at random: flip, RandAugment, resize, blur and JPEG.
        num_ops: Changes of RandAugment per image, 0 for none.
        magnitude: Their strength, 0 to 30.
        leave_out_attack: An attack that is met in test only, where it is the only one.
        val_fraction: Share of validation, in people, where the split is seeded.
        test_fraction: Share of test, in people, where the split is seeded.
        split_seed: Seed of that split.
        num_folds: For small sets, so many folds instead of the shares.
        fold: The fold that is tested, from 0; the next one is validation.
        splits: JSON file of an earlier split to be used again.
        predict_path: Images to predict, without labels: files, folders and patterns, one or a list; null for what is
            tested, or else val.
        pretraining_path: Folder of the faces that the encoder was pre-trained on, where none may be that is tested.
        train_share: Share of the training images that is used, see `ImageDataModule`.

    Attributes:
        counts: After `setup`, per part the number of "images", of each class, of "identities", and of images of
            "unknown identity"; under "dropped" what no part has, by reason.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    def __init__(
        self,
        path: Path,
        batch_size: int = 32,
        img_size: int | tuple[int, int] | None = None,
        eval_batch_size: int = 32,
        num_workers: int = 2,
        test_paths: dict[str, Path] | list[Path] | None = None,
        identity_pattern: str | None = None,
        shared_identities: bool = True,
        face_boxes: list[str] | None = None,
        balanced: bool = False,
        augment: bool = True,
        num_ops: int = 2,
        magnitude: int = 9,
        leave_out_attack: str | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        num_folds: int | None = None,
        fold: int = 0,
        splits: Path | None = None,
        predict_path: PredictPath = None,
        pretraining_path: Path | None = None,
        train_share: float = 1.0,
    ) -> None:
        super().__init__(
            *(path, batch_size, img_size, eval_batch_size, num_workers, val_fraction, test_fraction, predict_path),
            train_share,
        )
        check_identity_pattern(identity_pattern)
        if num_ops < 0 or not 0 <= magnitude <= LARGEST_MAGNITUDE:
            raise UserError(
                f"num_ops, magnitude: {num_ops}, {magnitude}; must be at least 0, and 0 to {LARGEST_MAGNITUDE}"
            )
        if num_folds is not None and not (num_folds >= FEWEST_FOLDS and 0 <= fold < num_folds):
            raise UserError(
                f"num_folds, fold: {num_folds}, {fold}; give at least {FEWEST_FOLDS} folds (train, val and test), and "
                "a fold from 0 to num_folds - 1"
            )
        self.test_paths = name_test_sets(test_paths, self.path)
        self.identity_pattern = identity_pattern
        self.shared_identities = shared_identities
        self.face_boxes = face_boxes
        self.balanced = balanced
        self.transform = MorphTransform(num_ops, magnitude) if augment else None
        self.leave_out_attack = leave_out_attack
        self.split_seed = split_seed
        self.num_folds = num_folds
        self.fold = fold
        self.splits = expand(splits)
        self.pretraining_path = expand(pretraining_path)
        self._split: FaceSplit | None = None
        self._all_faces: list[Face] | None = None
        self._sets: dict[str, list[Face]] | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class id."""
        return list(CLASS_NAMES)

    @property
    def is_split_by_seed(self) -> bool:
        """True where the split is made here, and not by folders or by a column of the CSV."""
        return not any(face.split for face in self._faces())

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images in each split of `path`, as `splits` takes them from a JSON file."""
        return {split: [face.name for face in faces] for split, faces in self._found().faces.items()}

    def faces(self, part: str) -> list[Face]:
        """Return the faces of "train", "val" or "test", or of a test set by its name."""
        if part in self.test_paths:
            return self._test_sets()[part]
        faces = self._found().faces[part]
        return self.training_part(faces, lambda face: face.name) if part == "train" else faces

    def tested_parts(self) -> list[str]:
        """Return the names of what is tested: "test", unless there is no such split, and the test sets."""
        return (["test"] if self.faces("test") else []) + list(self.test_paths)

    def map_images(self, function: Callable[[Tensor], Measured], part: str, title: str) -> list[Measured]:
        """Return a function of each image of a part, in the order of `faces`.

        Args:
            function: Takes an image at `img_size`, uint8 RGB `(3, H, W)`.
            part: "train", "val", "test" or the name of a test set.
            title: What a progress bar says.
        """
        return map_in_threads(lambda face: function(read_face(face, self.img_size)), self.faces(part), title)

    def fold_records(self, num_folds: int) -> list[dict[str, list[str]]]:
        """Return splits for cross-validation in which nobody is on two sides; few morphs are in none, see the splits.

        There are none where `num_folds` makes some, too.
        """
        if not self.is_split_by_seed or self.num_folds is not None:
            return []
        found = self._found().faces
        faces = [*found["train"], *found["val"]]
        copies = copies_of(faces)
        records = []
        for fold in range(num_folds):
            parts = split_by_identity(faces, by_validation(num_folds, fold, self.split_seed), copies).faces
            names = {split: [face.name for face in parts[split]] for split in ("train", "val")}
            records.append({**names, "test": [face.name for face in found["test"]]})
        return records

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the parts that the stage needs, fill `counts`, and say what is unknown or was dropped.

        Raises:
            UserError: A file cannot be used, a part lacks a class, or there are too few samples to train.
        """
        stages = SPLITS_OF_STAGE[stage]
        parts = [part for part in stages if part != "test"] + (self.tested_parts() if "test" in stages else [])
        for part in parts:
            faces = self.faces(part)
            self._check_classes(part, faces)
            map_in_threads(check_face, faces, f"Checking {part} files")
            self.counts[part] = count_faces(faces)
            warn_about_unknown(part, faces)
            warn_about_shortcuts(part, faces)
            if part != "train":
                warn_about_few(part, faces)
        if parts:
            self._report_dropped()
        if stage in ("fit", None):
            sampler = self._training_sampler()
            self._check_batch_size(len(sampler) * self._world_size)

    @property
    def repeats_images(self) -> bool:
        """Whether training images are not changed at random."""
        return self.transform is None

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled, augmented batches; what does not fill a batch is left out."""
        dataset = AugmentedFaces(self.faces("train"), self.img_size, self.transform)
        return self.training_loader(dataset, self._training_sampler())

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation images, bona fide images and each attack in turn."""
        return self._labeled_loader(self.faces("val"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images of the test split and of each test set, bona fide images and each attack in turn.

        Raises:
            UserError: There is neither.
        """
        faces = self._tested()
        if not faces:
            raise UserError(f"{self.path}: no test split; use validate, add test_paths, or set test_fraction")
        return self._labeled_loader(faces)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the images of `predict_path`, without labels, or else what is tested, or else the validation images.

        Raises:
            UserError: `predict_path` does not exist or holds no image.
        """
        if self.predict_path is None:
            faces = interleaved(self._tested() or self.faces("val"))
            if len({face.name for face in faces}) < len(faces):
                # data sets may have images of one name
                faces = [replace(face, name=f"{face.dataset}/{face.name}") for face in faces]
            return self.faces_to_predict(faces, labeled=True)
        return self.faces_to_predict(find_unlabeled_faces(self.predict_path, "predict_path"))

    def _labeled_loader(self, faces: Sequence[Face]) -> DataLoader[dict[str, Any]]:
        return self.evaluation_loader(FaceDataset(interleaved(faces), self.img_size))

    def _tested(self) -> list[Face]:
        return [face for part in self.tested_parts() for face in self.faces(part)]

    def _training_sampler(self) -> TrainingSampler:
        labels = [face.label for face in self.faces("train")]
        if not self.balanced:
            return TrainingSampler(len(labels), self._world_size, self._rank, self._run_seed)
        if min(Counter(labels).values()) < self._world_size:
            raise UserError(f"balanced: {self._world_size} processes, more than a class has training images; set false")
        return BalancedSampler(labels, self._world_size, self._rank, self._run_seed)

    def _check_classes(self, part: str, faces: Sequence[Face]) -> None:
        for label, name in enumerate(CLASS_NAMES):
            number = sum(face.label == label for face in faces)
            if not number:
                raise UserError(
                    f"{self.test_paths.get(part, self.path)}: no {name} image in {part} (of {len(faces)} images"
                    f"{self._dropped_text(part)}); more people or another split are needed"
                )

    def _dropped_text(self, part: str) -> str:
        dropped = {} if part in self.test_paths else self._found().dropped
        return "".join(f"; dropped: {count} {reason}" for reason, count in dropped.items())

    def _report_dropped(self) -> None:
        dropped = self._found().dropped
        if dropped:
            self.counts["dropped"] = dict(dropped)
            log.info("%s%s", self.path, self._dropped_text("train"))

    def _found(self) -> FaceSplit:
        if self._split is None:
            faces = self._faces()
            copies = copies_of([*faces, *(face for of_set in self._test_sets().values() for face in of_set)])
            split = self._splits_of(faces, copies)
            if self.leave_out_attack is not None:
                split = leave_out(split, self.leave_out_attack)
            refuse_leaks(split.faces, self._test_sets(), self.shared_identities, copies)
            if self.pretraining_path is not None:
                seen = find_unlabeled_faces(self.pretraining_path, "pretraining_path", self.identity_pattern)
                tested = [face for of_set in self._test_sets().values() for face in of_set]
                refuse_pretrained(seen, [*split.faces["test"], *tested])
            for path, of_set in ((self.path, faces), *((self.test_paths[n], f) for n, f in self._test_sets().items())):
                warn_about_strangers(path, of_set)
            self._split = split
        return self._split

    def _splits_of(self, faces: list[Face], copies: Mapping[Path, Path]) -> FaceSplit:
        if not self.is_split_by_seed:
            if self.splits is not None or self.num_folds is not None:
                raise UserError(f"splits, num_folds: {self.path} has splits of its own; leave these fields out")
            self.note_unused(SEEDED, f"{self.path} has splits of its own")
            return FaceSplit({split: [face for face in faces if face.split == split] for split in SPLITS})
        if self.splits is not None:
            face_of = {face.name: face for face in faces}
            record = read_split_record(self.splits, list(face_of))
            split = FaceSplit({name: [face_of[face] for face in record[name]] for name in SPLITS})
            recorded = sum(map(len, record.values()))
            split.dropped += Counter({"images that are not in the recorded split": len(faces) - recorded})
            return split
        if self.num_folds is not None:
            self.note_unused(SEEDED[:2], f"{self.num_folds} folds are made")
            division = by_folds(self.num_folds, self.fold, self.split_seed)
        else:
            division = by_fractions(self.val_fraction, self.test_fraction, self.split_seed)
        return split_by_identity(faces, division, copies)

    def _faces(self) -> list[Face]:
        if self._all_faces is None:
            faces = self._read(self.path, self.path.stem)
            if self.identity_pattern and not any(face.identities for face in faces):
                raise UserError(
                    f"identity_pattern: {shortened(self.identity_pattern)!r} matches no file name in {self.path}, "
                    f"e.g. {faces[0].name}; correct it"
                )
            self._all_faces = faces
        return self._all_faces

    def _test_sets(self) -> dict[str, list[Face]]:
        if self._sets is None:
            found = {name: self._read(path, name) for name, path in self.test_paths.items()}
            self._sets = {name: [face for face in faces if face.split in ("", "test")] for name, faces in found.items()}
        return self._sets

    def _read(self, path: Path, dataset: str) -> list[Face]:
        return read_data_set(path, dataset, self.identity_pattern, self.face_boxes)
