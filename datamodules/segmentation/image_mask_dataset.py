"""Samples of images with masks, and of images alone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.kept import KeptSamples
from datamodules.common.mask_labels import Color
from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import read_mask, read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.common.zip_members import ImageFile
from datamodules.segmentation.labels import LabelTable
from datamodules.segmentation.outlier_exposure import OutlierPaste
from datamodules.segmentation.transforms import TrainTransform
from eomt.utils.labels import IGNORE_INDEX


def blank_image(channels: int) -> dict[str, Any]:
    """Return a sample of black pixels without a name, which stands for a file that cannot be read."""
    return {"image": torch.zeros(channels, 32, 32, dtype=torch.uint8), "name": ""}


class IndexMapDataset(Dataset[dict[str, Any]], ABC):
    """Images with their maps of classes.

    A sample holds `image` (3, H, W) uint8 RGB, `mask` (H, W) int64 with 255 = ignored, and `name`.
    `PADDING_INDEX` gives the first sample with everything ignored and an empty name.

    Args:
        names: Of the images.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, ids = self.read(max(index, 0))
        if index == PADDING_INDEX:
            return {"image": image, "mask": ids.long().fill_(IGNORE_INDEX), "name": ""}
        return {"image": image, "mask": ids.long(), "name": self.names[index]}


class ImageMaskDataset(IndexMapDataset):
    """Images with masks in files.

    Args:
        pairs: The files.
        table: Class ids of the masks' raw labels.
        class_colors: Colors of the raw labels, where masks are colored.
    """

    def __init__(self, pairs: list[Pair], table: LabelTable, class_colors: list[Color] | None) -> None:
        super().__init__([pair.name for pair in pairs])
        self.pairs = pairs
        self.table = table
        self.class_colors = class_colors

    def read(self, position: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, H, W) uint8 and its class ids (H, W) uint8."""
        pair = self.pairs[position]
        image = read_pixels(pair.image)
        ids = torch.from_numpy(self.table.class_ids(read_mask(pair.mask, self.class_colors, pair.image), pair.mask))
        check_same_size(pair, tuple(image.shape[-2:]), tuple(ids.shape))
        return image, ids

    def labels(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return raw labels (H, W), and where they are classes, (H, W) bool."""
        pair = self.pairs[position]
        raw = read_mask(pair.mask, self.class_colors, pair.image)
        return raw, self.table.class_ids(raw, pair.mask) != IGNORE_INDEX


class AugmentedDataset(Dataset[dict[str, Any]]):
    """Randomly changed samples, for training, decoded once each, see `KeptSamples`.

    An index comes with the seed of the changes.

    Args:
        samples: Images with their maps.
        transform: The random changes.
        outliers: What is pasted into some images. A sample then holds `outlier` (H, W) bool too, true where it is.
    """

    def __init__(
        self, samples: IndexMapDataset, transform: TrainTransform, outliers: OutlierPaste | None = None
    ) -> None:
        self.samples = samples
        self.read = KeptSamples(samples.read)
        self.transform = transform
        self.outliers = outliers

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        # Lightning's overfit_batches takes the sampler away, and with it the seeds
        position, seed = index if isinstance(index, tuple) else (index, index)
        image, ids = self.read(position)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the GPU's generator too, which belongs to the network
            torch.default_generator.manual_seed(seed)
            sample = self.transform(image, ids, self.outliers)
        return {**sample, "mask": sample["mask"].long(), "name": self.samples.names[position]}


class ImageDataset(Dataset[dict[str, Any]]):
    """Images alone: `image` (3, H, W) uint8 RGB and `name`; `PADDING_INDEX` gives the first one without a name.

    Args:
        files: Name and path of each image.
    """

    def __init__(self, files: list[tuple[str, ImageFile]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, str | Tensor]:
        name, path = self.files[max(index, 0)]
        return {"image": read_pixels(path), "name": "" if index == PADDING_INDEX else name}
