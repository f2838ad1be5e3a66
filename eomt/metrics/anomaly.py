"""Pixel and component metrics of anomaly scores, per data set, at bounded memory."""

import re
from collections.abc import Iterator, Sequence
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from eomt.errors import UserError
from eomt.metrics.components import (
    ANOMALY_TRACK,
    NO_COMPONENTS,
    OBSTACLE_TRACK,
    ComponentCounts,
    ComponentSizes,
    count_components,
)
from eomt.metrics.score_histogram import (
    NUM_COARSE,
    SHIFTS,
    ScoreHistogram,
    child_counts,
    coarse_counts,
    score_keys,
)
from eomt.utils.distributed import gather
from eomt.utils.labels import IGNORE_INDEX

FIGURES = ("auprc", "auroc", "fpr95", "siou", "ppv", "f1")
"""Figures of a score, as in the tables."""


# Names of sets are as folders have them, without case and marks; a widespread folder of RoadObstacle21 is called
# RoadObsticle21.
ROAD_OBSTACLE = ("roadobstacle21", "roadobsticle21", "datasetobstacletrack", "obstacletrack")
# SegmentMeIfYouCan evaluates each of its sets in one track.
TRACKS = dict.fromkeys(
    ("roadanomaly21", "roadanomaly", "datasetanomalytrack", "anomalytrack", "fsstatic", "fishyscapesstatic")
    + ("fslostfoundfull", "fslostfound", "fslostandfound", "fishyscapeslostandfound", "fishylaf"),
    ANOMALY_TRACK,
) | dict.fromkeys(
    (*ROAD_OBSTACLE, "lostandfound", "lostfound", "datasetlostandfound"),
    OBSTACLE_TRACK,
)


def set_key(dataset: str) -> str:
    """Return what spellings of a set's name have in common: its letters and digits, in lower case."""
    return re.sub(r"[\W_]", "", dataset.lower())


def component_sizes_of(dataset: str, others: ComponentSizes | None = None) -> ComponentSizes:
    """Return the sizes of the benchmark's track that evaluates a data set.

    Args:
        dataset: Name of the set.
        others: Sizes for sets that the benchmark does not evaluate; those that it does keep theirs.

    Raises:
        UserError: If the benchmark does not evaluate it, and nothing else was given.
    """
    sizes = TRACKS.get(set_key(dataset), others)
    if sizes is None:
        raise UserError(
            f"component_sizes: null, and {dataset!r} is no set of SegmentMeIfYouCan; give "
            f"--model.component_sizes '{list(ANOMALY_TRACK)}' as for objects of any size, or '{list(OBSTACLE_TRACK)}' "
            "as for small obstacles"
        )
    return sizes


class PixelStore:
    """Truth and scores of images on disk, for what needs to see them again; the file has no name and goes with it.

    Ignored pixels have no scores there: in obstacle sets they are most of an image.
    """

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115
        self._num_images = 0

    def add(self, truth: Tensor, scores: Tensor) -> None:
        """Append an image: truth uint8 `(H, W)`, scores of its n known pixels float32 `(S, n)`.

        Raises:
            UserError: The disk is full.
        """
        try:
            np.save(self._file, truth.cpu().numpy())
            np.save(self._file, scores.cpu().numpy())
        except OSError as error:
            raise UserError(
                f"TMPDIR: {error.strerror} while keeping anomaly scores; give a folder with 4 bytes per pixel and score"
            ) from error
        self._num_images += 1

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give back each image as it was appended."""
        self._file.seek(0)
        for _ in range(self._num_images):
            truth, scores = np.load(self._file), np.load(self._file)
            yield torch.from_numpy(truth), torch.from_numpy(scores)


class _DataSet:
    """What one process has seen of a data set."""

    def __init__(self, num_scores: int) -> None:
        self.num_images = 0
        self.coarse = np.zeros((num_scores, NUM_COARSE, 2), dtype=np.int64)
        self.pixels = PixelStore()


class AnomalyMetric:
    """Ranking metrics of pixels, pooled over a data set, and component metrics, of several scores at once.

    Scores may have any range and may crowd anywhere. Average precision and AUROC lie within 1e-3 of those of all single
    pixels, FPR95 too; see `eomt.metrics.score_histogram`. In memory are histograms and one image; the scores are kept
    in a temporary file, since a bin can be split, and components can be found, only when all pixels are known.
    Components are those of the pixels at or above the threshold with the best F1 of pixels, which the benchmark
    chooses on the test set itself, too.

    Figures do not depend on the order of images or on how many processes see them.
    """

    def __init__(
        self, scores: Sequence[str], component_sizes: ComponentSizes | None = None, components: bool = True
    ) -> None:
        """Set up the metric.

        Args:
            scores: Names of the scores.
            component_sizes: The smallest components that count in sets that the benchmark does not evaluate.
            components: Measure components too.
        """
        self.scores = list(scores)
        self.component_sizes = component_sizes
        self.components = components
        self._datasets: dict[str, _DataSet] = {}
        self._device = torch.device("cpu")

    def sizes_for(self, dataset: str) -> ComponentSizes:
        """Return the smallest components of a data set that count.

        Raises:
            UserError: If they must be given.
        """
        return component_sizes_of(dataset, self.component_sizes)

    def reset(self) -> None:
        """Forget everything."""
        for seen in self._datasets.values():
            seen.pixels.close()
        self._datasets = {}

    @torch.no_grad()
    def update(self, dataset: str, maps: Tensor, truth: Tensor) -> None:
        """Take in one image.

        Args:
            dataset: The set that it belongs to.
            maps: Scores, higher = more anomalous, `(S, H, W)`.
            truth: 1 = anomalous, 0 = not, 255 = ignored, `(H, W)`.

        Raises:
            UserError: A score is nan.
        """
        assert maps.shape == (len(self.scores), *truth.shape), (maps.shape, truth.shape)
        known = truth != IGNORE_INDEX
        labels = truth[known].long()
        assert bool(((labels == 0) | (labels == 1)).all()), "0, 1 and 255 are the labels of an anomaly mask"
        known_scores = maps[:, known].float()
        if known_scores.isnan().any():
            name = self.scores[int(known_scores.isnan().any(dim=1).long().argmax())]
            raise UserError(
                f"{dataset}: score {name} is nan, as the network's answer is; take a smaller lr, or fp32 for fp16"
            )
        if dataset not in self._datasets:
            self._datasets[dataset] = _DataSet(len(self.scores))
        seen = self._datasets[dataset]
        self._device = maps.device
        seen.num_images += 1
        for counts, values in zip(seen.coarse, known_scores, strict=True):
            counts += coarse_counts(score_keys(values), labels).cpu().numpy()
        seen.pixels.add(truth.to(torch.uint8), known_scores)

    def compute(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the figures of everything counted so far, in all processes.

        Returns:
            By data set and score, `FIGURES` and `best_f1`, `threshold`; under the score "" `images`, their number,
            and `anomalous`, the share of the known pixels that is. Without an anomalous pixel all figures are nan.
        """
        names = sorted({name for part in gather(list(self._datasets)) for name in part})
        return {name: self._dataset_figures(name) for name in names}

    def _dataset_figures(self, dataset: str) -> dict[str, dict[str, float]]:
        # a process may have seen none of its images
        seen = self._datasets.get(dataset) or _DataSet(len(self.scores))
        histograms = [ScoreHistogram.coarse(counts) for counts in _sum_over_ranks(seen.coarse)]
        for shift in SHIFTS:
            histograms = self._split(seen.pixels, histograms, shift)
        figures = {name: histogram.figures() for name, histogram in zip(self.scores, histograms, strict=True)}
        negative, positive = histograms[0].counts.sum(axis=0).tolist()
        if self.components:
            thresholds = [figures[name]["threshold"] for name in self.scores]
            for name, counts in zip(self.scores, self._count_components(dataset, seen, thresholds), strict=True):
                figures[name] |= counts.figures()
        share = positive / (positive + negative) if positive + negative else np.nan
        images = sum(gather(seen.num_images))
        return {"": {"images": images, "anomalous": share}, **figures}

    def _split(self, pixels: PixelStore, histograms: list[ScoreHistogram], shift: int) -> list[ScoreHistogram]:
        parents = [histogram.unsettled(shift) for histogram in histograms]
        chosen = [index for index, bins in enumerate(parents) if len(bins)]
        if not chosen:
            return histograms
        counts = {index: np.zeros((len(parents[index]), 256, 2), dtype=np.int64) for index in chosen}
        bins = {index: torch.from_numpy(parents[index].copy()).to(self._device) for index in chosen}
        for truth, scores in pixels:
            labels = truth[truth != IGNORE_INDEX].long().to(self._device)
            for index in chosen:
                keys = score_keys(scores[index].to(self._device))
                counts[index] += child_counts(keys, labels, bins[index], shift).cpu().numpy()
        split = list(histograms)
        for index in chosen:
            split[index] = histograms[index].split(parents[index], shift, _sum_over_ranks(counts[index]))
        return split

    def _count_components(self, dataset: str, seen: _DataSet, thresholds: list[float]) -> list[ComponentCounts]:
        sizes = self.sizes_for(dataset)
        counts = [NO_COMPONENTS] * len(thresholds)
        for truth, scores in seen.pixels:
            known = (truth != IGNORE_INDEX).numpy()
            for index, threshold in enumerate(thresholds):
                predicted = np.zeros(known.shape, dtype=bool)
                # without positives the threshold is nan, and nothing lies above it
                predicted[known] = scores[index].numpy() >= threshold
                counts[index] = counts[index].plus(count_components(predicted, truth.numpy(), sizes))
        parts = gather(counts)
        total = parts[0]
        for part in parts[1:]:
            total = [mine.plus(theirs) for mine, theirs in zip(total, part, strict=True)]
        return total


def _sum_over_ranks(counts: np.ndarray) -> np.ndarray:
    return np.sum(gather(counts), axis=0)
