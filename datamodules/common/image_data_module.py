"""Common parts of the data modules of images: loaders that can be resumed, and the place among processes."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.common.checks import check_at_least
from datamodules.common.conversion import Conversion, ConvertedImage, Intensity
from datamodules.common.data_module import DataModule
from datamodules.common.sampling import EvaluationSampler, LazyLoader, TrainingSampler, collate_samples
from datamodules.common.splits import hash_of
from datamodules.common.to_predict import PredictPath, state_of
from datamodules.common.tolerant import TolerantCollate, TolerantDataset, refuse_unreadable
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError
from eomt.utils.images import RGB
from eomt.utils.paths import expand_all

Sample = TypeVar("Sample")


class ImageDataModule(DataModule):
    """Loaders of images.

    Args:
        batch_size: Training samples per step and process.
        eval_batch_size: Samples per step in evaluation.
        num_workers: Processes that read files.
        predict_path: Images to predict: files, folders and patterns, one or a list; null for images of the data set.
        intensity: Which stored values become black and white, for images of more than 8 bits: two values, [0, 4095], or
            two percentiles of each image's values, p1-p99. Null where images have 8 bits.
        channels: Which bands become red, green and blue, from 0: [2, 1, 0]; one band, [3], is shown in gray. More than
            three, [0, 1, 2, 3, 4], for a network whose encoder takes as many, see `eomt.models.ViT`; the first three
            are its red, green and blue, and shown in pictures. Null for the first three, or the only one.
        page: Which page of TIFF files of several pages is read, from 0.
        train_share: Share of the training images that is used, drawn by the run's seed, such as 0.5: more of them, with
            the same seed, hold those of a smaller share. It shows what more images would bring.

    Raises:
        UserError: A field has an impossible value.
    """

    collate: Callable[..., dict[str, Any]] = staticmethod(collate_samples)

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        predict_path: PredictPath = None,
        intensity: Intensity = None,
        channels: list[int] | None = None,
        page: int | None = None,
        train_share: float = 1.0,
    ) -> None:
        super().__init__(batch_size, expand_all(predict_path))
        check_at_least(batch_size=(batch_size, 1), eval_batch_size=(eval_batch_size, 1), num_workers=(num_workers, 0))
        if not 0 < train_share <= 1:
            raise UserError(f"train_share: {train_share}; must be above 0 and at most 1")
        self.train_share = train_share
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.intensity = intensity
        self.channels = channels
        self.page = page
        self._conversion = Conversion.of_fields(intensity, channels, page)

    @property
    def num_channels(self) -> int:
        """Number of channels of the images in batches."""
        return RGB if self._conversion is None else self._conversion.num_channels

    @property
    def reading_notes(self) -> list[str]:
        """What pictures show of images of more than three channels, and how these change at random."""
        if self.num_channels == RGB or self.channels is None:
            return []
        return [
            f"{self.num_channels} channels: pictures show bands {', '.join(map(str, self.channels[:RGB]))} as red, "
            "green and blue; random changes of color are of the brightness of all and the contrast of each, not of "
            "saturation"
        ]

    def converted(self, file: ImageFile) -> ImageFile:
        """Return an image's file with the way in which its values become RGB, which every reader of images knows.

        Subclasses that pass `intensity`, `channels` and `page` on call it for each image that they find.
        """
        return file if self._conversion is None else ConvertedImage(file, self._conversion)

    def training_part(self, samples: Sequence[Sample], name: Callable[[Sample], str]) -> list[Sample]:
        """Return the training samples that are used, of all: `train_share` of those of different names.

        Args:
            samples: All of them.
            name: Returns the name of a sample's image.
        """
        if self.train_share == 1:
            return list(samples)
        names = sorted({name(sample) for sample in samples}, key=lambda text: hash_of(self._run_seed, text))
        used = set(names[: max(1, round(len(names) * self.train_share))])
        return [sample for sample in samples if name(sample) in used]

    def training_loader(self, dataset: Any, sampler: TrainingSampler | None = None) -> DataLoader[dict[str, Any]]:
        """Return shuffled batches that go on where a resumed run stopped; what does not fill a batch is left out.

        Raises:
            UserError: If no batch would be filled.
        """
        if sampler is None:
            self._check_batch_size(len(dataset))
            sampler = TrainingSampler(len(dataset), self._world_size, self._rank, self._run_seed)
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
            sampler.samples_seen = lambda: progress.completed * self.batch_size
        return self._loader(dataset, sampler, self.batch_size, drop_last=True)

    def evaluation_loader(self, dataset: Any, sampler: EvaluationSampler | None = None) -> DataLoader[dict[str, Any]]:
        """Return every sample in order, the same number of batches on each rank."""
        sampler = sampler or EvaluationSampler(len(dataset), self._world_size, self._rank)
        return self._loader(dataset, sampler, self.eval_batch_size, drop_last=False)

    def prediction_loader(
        self,
        dataset: Any,
        files: Mapping[str, ImageFile],
        blank: Mapping[str, Any],
        sampler: type[EvaluationSampler] = EvaluationSampler,
        collate: Callable[..., dict[str, Any]] | None = None,
    ) -> DataLoader[dict[str, Any]]:
        """Return the samples that are not predicted yet, in order; files that cannot be read are listed in batches.

        Args:
            dataset: Samples.
            files: The file that each of them is of, by the sample's name, in the order of the samples.
            blank: A sample without a name, see `TolerantDataset`.
            sampler: Shares the samples among the processes.
            collate: Makes a batch; None takes that of evaluation.

        Raises:
            UserError: No file can be read, which is said before earlier predictions make room.
        """
        names = list(files)
        left = names
        if self.left_to_predict is not None:
            refuse_unreadable(dataset, len(names))
            left = self.left_to_predict({name: state_of(file) for name, file in files.items()})
        wanted = set(left)
        places = [place for place, name in enumerate(names) if name in wanted]
        tolerant = TolerantDataset(dataset, names, places, blank)
        shares = sampler(len(places), self._world_size, self._rank)
        collated = TolerantCollate(collate or self.collate, blank)
        return self._loader(tolerant, shares, self.eval_batch_size, drop_last=False, collate=collated)

    def _loader(
        self,
        dataset: Dataset[dict[str, Any]],
        sampler: Sampler[Any],
        batch_size: int,
        drop_last: bool,
        collate: Callable[..., dict[str, Any]] | None = None,
    ) -> DataLoader[dict[str, Any]]:
        return LazyLoader(
            dataset,
            # by name, or Lightning cannot build the loader anew for prediction
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=collate or self.collate,
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
                "training images; set a smaller batch_size"
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
