"""What the data modules of faces have in common: fields, loaders, and the place among processes."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.morph_layouts import Face
from datamodules.reading import IMAGE_EXTENSIONS
from datamodules.sampling import EvaluationSampler, LazyLoader, TrainingSampler, collate_samples
from datamodules.splits import find_files
from eomt.errors import UserError

DEFAULT_SIZE = 224


class FaceDataModule(LightningDataModule):
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
        super().__init__()
        for field, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise UserError(f"{field}: {value}: must be at least {least}")
        img_size = DEFAULT_SIZE if img_size is None else img_size
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < 1:
            raise UserError(f"img_size: {[height, width]}: must be at least 1 pixel each way")
        if not (0 < val_fraction < 1 and test_fraction >= 0 and val_fraction + test_fraction < 1):
            raise UserError(
                f"val_fraction, test_fraction: {val_fraction}, {test_fraction}: "
                "val must be above 0, test at least 0, their sum below 1"
            )
        self.path = Path(path)
        self.batch_size = batch_size
        self.img_size = (height, width)
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.counts: dict[str, dict[str, int]] = {}

    def _training_loader(
        self, dataset: Dataset[dict[str, Any]], sampler: TrainingSampler
    ) -> DataLoader[dict[str, Any]]:
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
            sampler.samples_seen = lambda: progress.completed * self.batch_size
        return self._loader(dataset, sampler, self.batch_size, drop_last=True)

    def _evaluation_loader(self, dataset: Dataset[dict[str, Any]], number: int) -> DataLoader[dict[str, Any]]:
        sampler = EvaluationSampler(number, self._world_size, self._rank)
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
            collate_fn=collate_samples,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # its own, or each new iterator would draw from the generator of dropout and masking
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


def find_unlabelled_faces(path: Path, field: str) -> list[Face]:
    """Return all images below a folder, or one image.

    Raises:
        UserError: There is none; the field is named.
    """
    if path.is_file():
        return [Face(path.name, path, 0)]
    names = find_files(path, IMAGE_EXTENSIONS)
    if not names:
        raise UserError(f"{field}: {path} is no image and no folder of images")
    return [Face(name, path / name, 0) for name in names]
