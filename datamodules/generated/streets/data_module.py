"""Common parts of the data modules of drawn streets."""

from pathlib import Path
from typing import Any, ClassVar

from datamodules.common.checks import check_at_least
from datamodules.generated.data_module import GeneratedData
from datamodules.generated.streets.drawing import CLASS_NAMES
from datamodules.segmentation.data_module import SegmentationDataModule


class GeneratedStreets(SegmentationDataModule, GeneratedData):
    """Numbers of drawn streets in each split, and their classes.

    Args:
        path: Folder for the files.
        num_train: Images to train on.
        num_val: Images of validation.
        num_test: Images of test.
        seed: Seed of the streets.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        **common: Fields of `SegmentationDataModule`.

    Raises:
        UserError: A field has an impossible value.
    """

    # fewest images of test
    least_test: ClassVar[int] = 0

    def __init__(
        self,
        path: Path,
        num_train: int = 100,
        num_val: int = 40,
        num_test: int = 40,
        seed: int = 0,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(path, eval_batch_size=eval_batch_size, num_workers=num_workers, **common)
        check_at_least(
            num_train=(num_train, 1), num_val=(num_val, 1), num_test=(num_test, self.least_test), seed=(seed, 0)
        )
        self.num_images = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class id."""
        return list(CLASS_NAMES)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated."""
        return {**self.num_images, "seed": self.seed}
