"""Samples of images with masks of anomalies."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.pairs import Pair, check_same_size
from datamodules.common.reading import check_image, read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.common.threads import map_in_threads
from datamodules.segmentation.road_anomaly_sets import ANOMALY, AnomalySample, AnomalySet
from eomt.errors import UserError, listed
from eomt.utils.labels import IGNORE_INDEX


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
        image = read_pixels(sample.image)
        anomaly = self._anomaly(sample, tuple(image.shape[-2:]))
        is_padding = index == PADDING_INDEX
        return {
            "image": image,
            "anomaly": anomaly.fill_(IGNORE_INDEX) if is_padding else anomaly,
            "name": "" if is_padding else sample.name,
            "dataset": sample.dataset,
        }

    def _anomaly(self, sample: AnomalySample, size: tuple[int, ...]) -> Tensor:
        assert sample.mask is not None, "only samples with a mask are measured"
        anomaly = torch.from_numpy(self.sets[sample.dataset].read_anomaly(sample.mask, sample.image))
        check_same_size(Pair(sample.name, sample.image, sample.mask), size, tuple(anomaly.shape))
        return anomaly.long()


def find_labels(samples: list[AnomalySample], sets: dict[str, AnomalySet]) -> list[set[int]]:
    """Check all files, and return which of 0, 1 and 255 each mask holds.

    Args:
        samples: All of a set's that have masks, of one set or several.
        sets: The sets, by name.

    Raises:
        UserError: A file is damaged, image and mask differ in size, a mask has labels beyond 0, 1 and 255, or a set
            marks nothing as anomalous, or nothing as usual: then its labels mean something else, most likely.
    """
    dataset = AnomalyDataset(samples, sets)

    def labels_of(sample: AnomalySample) -> set[int]:
        anomaly = dataset._anomaly(sample, check_image(sample.image))
        return set(anomaly.flatten().bincount().nonzero().flatten().tolist())

    labels = map_in_threads(labels_of, samples, "Checking anomaly masks")
    for name in dict.fromkeys(sample.dataset for sample in samples):
        found = set().union(*(of for sample, of in zip(samples, labels, strict=True) if sample.dataset == name))
        if not {0, ANOMALY} <= found:
            missing = "anomalous (1)" if ANOMALY not in found else "usual (0)"
            mapped = f", read as the original's {sets[name].raw_labels}" if sets[name].label_map else ""
            raise UserError(
                f"{name}: no pixel of its {len(samples)} masks is {missing}, they hold [{listed(sorted(found))}]"
                f"{mapped}; masks are 0 usual, 1 anomaly, {IGNORE_INDEX} ignored"
            )
    return labels
