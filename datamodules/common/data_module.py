"""What the data modules of images have in common: loaders that can be resumed, and the place among processes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.common.pairs import find_files
from datamodules.common.reading import IMAGE_EXTENSIONS
from datamodules.common.sampling import EvaluationSampler, LazyLoader, TrainingSampler, collate_samples
from eomt.errors import UserError


class ImageDataModule(LightningDataModule):
    """Loaders of images.

    Args:
        batch_size: Training samples per step and process.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.

    Attributes:
        counts: After `setup`, per split the number of "images", and of whatever else a data set counts.

    Raises:
        UserError: A field has an impossible value.
    """

    collate: Callable[..., dict[str, Any]] = staticmethod(collate_samples)

    # what `eomt.tasks.data.TaskData` asks of every data module, where there is nothing to say
    balanced: bool = False
    predict_path: Path | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for data without classes of their own."""
        return None

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes, by class id; None for data without classes of their own."""
        return None

    @property
    def is_split_by_seed(self) -> bool:
        """Whether a seed splits the data."""
        return False

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the samples in each split, where a seed makes them."""
        return {}

    def __init__(self, batch_size: int, eval_batch_size: int, num_workers: int) -> None:
        super().__init__()
        for field, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise UserError(f"{field}: {value}: must be at least {least}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.counts: dict[str, dict[str, int]] = {}

    def training_loader(self, dataset: Any, sampler: TrainingSampler | None = None) -> DataLoader[dict[str, Any]]:
        """Return shuffled batches that go on where a resumed run stopped; what does not fill a batch is left out."""
        sampler = sampler or TrainingSampler(len(dataset), self._world_size, self._rank, self._run_seed)
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
            sampler.samples_seen = lambda: progress.completed * self.batch_size
        return self._loader(dataset, sampler, self.batch_size, drop_last=True)

    def evaluation_loader(self, dataset: Any, sampler: EvaluationSampler | None = None) -> DataLoader[dict[str, Any]]:
        """Return every sample in order, the same number of batches on each rank."""
        sampler = sampler or EvaluationSampler(len(dataset), self._world_size, self._rank)
        return self._loader(dataset, sampler, self.eval_batch_size, drop_last=False)

    def _loader(
        self, dataset: Dataset[dict[str, Any]], sampler: Sampler[Any], batch_size: int, drop_last: bool
    ) -> DataLoader[dict[str, Any]]:
        return LazyLoader(
            dataset,
            # by name, or Lightning cannot build the loader anew for prediction
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # its own, or each new iterator would draw from the generator of dropout, masks and prompts
            generator=torch.Generator(),
        )

    def _check_batch_size(self, num_samples: int) -> None:
        if num_samples // self._world_size < self.batch_size:
            raise UserError(
                f"batch_size: {self.batch_size} on {self._world_size} processes is more than the {num_samples} "
                "training images: set a smaller batch_size"
            )

    @property
    def _run_seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise a UserError unless these leave something to train on."""
    if not (0 < val_fraction < 1 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise UserError(
            f"val_fraction, test_fraction: {val_fraction}, {test_fraction}: "
            "val must be above 0, test at least 0, their sum below 1"
        )


def find_images(path: Path, field: str) -> dict[str, Path]:
    """Return the images below a folder by name, or one image.

    Raises:
        UserError: There is none; the field is named.
    """
    if path.is_file():
        return {path.name: path}
    names = find_files(path, IMAGE_EXTENSIONS)
    if not names:
        raise UserError(f"{field}: {path} is no image and no folder of images")
    return {name: path / name for name in names}
