"""Cityscapes."""

from pathlib import Path
from typing import Any

from datamodules.class_maps import CITYSCAPES_LABEL_IDS, CITYSCAPES_NAMES
from datamodules.common.pairs import Pair
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.cityscapes_files import CityscapesFiles, LabelKind, find_cityscapes
from datamodules.segmentation.data_module import SegmentationDataModule
from datamodules.segmentation.labels import LabelTable
from eomt.errors import UserError

DEFAULT_CROP_SIZE = (1024, 1024)


class Cityscapes(SegmentationDataModule):
    """Cityscapes, fine annotations, 19 classes, official splits.

    `path` holds leftImg8bit and gtFine, each as a folder or as its official zip file, which is read as it is. The
    public annotations of test are void: `test` measures nothing there, `predict` gives its images.

    Batches are those of `SegmentationDataModule`; names are relative to the split, such as
    "ulm/ulm_..._leftImg8bit.png".

    Args:
        path: Folder of the data set.
        batch_size: Training samples per step and process.
        crop_size: Height and width of training samples; the command line fills in the network's; null for
            1024 x 1024.
        labels: Which annotations to read, both give the same batches; null for labelIds, which the archives hold,
            or, if there are none, labelTrainIds.
        **common: Fields of `SegmentationDataModule`.

    Raises:
        UserError: A field has an impossible value.
    """

    def __init__(
        self,
        path: Path,
        batch_size: int = 4,
        crop_size: tuple[int, int] | None = None,
        labels: LabelKind | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, batch_size, crop_size or DEFAULT_CROP_SIZE, **common)
        self.labels = labels
        self._files: CityscapesFiles | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the 19 classes that are evaluated, by class id."""
        return list(CITYSCAPES_NAMES)

    def find_splits(self) -> dict[str, list[Pair]]:
        """Return the pairs of the official splits.

        Raises:
            UserError: A folder, an archive or a partner is missing.
        """
        return self._found_files().pairs

    def setup(self, stage: str | None = None) -> None:
        """Look at every file of the splits that the stage needs, and fill `counts`.

        Raises:
            UserError: A file cannot be used, a label is unknown, a split is empty, or `test` has void annotations.
        """
        if stage == "test":
            self._check_test_annotations()
        super().setup(stage)

    def _check_test_annotations(self) -> None:
        if not self._pairs_of("test"):
            raise UserError(f"{self.path}: no annotated test images; use validate, or predict")
        if not any(self._classes_present("test")):
            raise UserError(f"{self.path}: the test images have no public annotations; use validate, or predict")

    def _files_to_predict(self) -> list[tuple[str, ImageFile]]:
        images = self._found_files().images if self.predict_path is None else {}
        given = [(name.removeprefix("test/"), file) for name, file in images.items() if name.startswith("test/")]
        to_predict = [(name, self.converted(file)) for name, file in given]
        return to_predict or super()._files_to_predict()

    def label_table(self) -> LabelTable:
        """Return the class id of every raw label in the annotations that were found."""
        is_remapped = self._found_files().kind == "labelIds"
        advice = f"give gtFine's {self._found_files().kind} as they were fetched or made by cityscapesScripts"
        return LabelTable(self.num_classes, CITYSCAPES_LABEL_IDS if is_remapped else None, [255], advice)

    def file_labels(self) -> list[int]:
        """Return Cityscapes' labelIds, which its server takes, whatever the annotations hold."""
        return LabelTable(self.num_classes, CITYSCAPES_LABEL_IDS, [255]).file_labels()

    def _found_files(self) -> CityscapesFiles:
        if self._files is None:
            self._files = find_cityscapes(self.path, self.labels)
        return self._files
