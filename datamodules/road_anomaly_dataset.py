"""Samples of images with masks of anomalies."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from datamodules.image_mask_dataset import check_same_size
from datamodules.labels import IGNORED
from datamodules.reading import check_image, read_image
from datamodules.road_anomaly_sets import ANOMALY, AnomalySample, AnomalySet
from datamodules.sampling import PADDING_INDEX
from datamodules.splits import Pair
from datamodules.threads import map_in_threads


class AnomalyDataset(Dataset[dict[str, Any]]):
    """Images at their own size with their masks.

    A sample holds `image` (3, H, W) uint8 RGB, `anomaly` (H, W) int64 with 0 usual, 1 anomaly and 255 ignored, `name`,
    which begins with the set's, and `dataset`, the set. `PADDING_INDEX` gives the first sample with everything ignored
    and an empty name.

    Args:
        samples: The files; all have masks.
        sets: The sets that they are from, by name.
    """

    def __init__(self, samples: list[AnomalySample], sets: dict[str, AnomalySet]) -> None:
        self.samples = samples
        self.sets = sets

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[max(index, 0)]
        image = F.pil_to_tensor(read_image(sample.image))
        anomaly = self._anomaly(sample, tuple(image.shape[-2:]))
        is_padding = index == PADDING_INDEX
        return {
            "image": image,
            "anomaly": anomaly.fill_(IGNORED) if is_padding else anomaly,
            "name": "" if is_padding else sample.name,
            "dataset": sample.dataset,
        }

    def _anomaly(self, sample: AnomalySample, size: tuple[int, ...]) -> Tensor:
        assert sample.mask is not None, "only samples with a mask are measured"
        anomaly = torch.from_numpy(self.sets[sample.dataset].read_anomaly(sample.mask))
        check_same_size(Pair(sample.name, sample.image, sample.mask), size, tuple(anomaly.shape))
        return anomaly.long()


def find_anomalous(samples: list[AnomalySample], sets: dict[str, AnomalySet]) -> list[bool]:
    """Check all files, and return which images hold an anomaly.

    Raises:
        UserError: A file is damaged, image and mask differ in size, or a mask has labels beyond 0, 1 and 255.
    """
    dataset = AnomalyDataset(samples, sets)

    def check(sample: AnomalySample) -> bool:
        return bool((dataset._anomaly(sample, check_image(sample.image)) == ANOMALY).any())

    return map_in_threads(check, samples, "Checking anomaly masks")
