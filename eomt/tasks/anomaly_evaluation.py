"""Anomaly scores of whole images: score maps, a comparison of temperatures, tables, and names of figures."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eomt.errors import UserError, listed
from eomt.metrics.anomaly import FIGURES, AnomalyMetric
from eomt.metrics.anomaly_scores import SCORES, anomaly_maps, msp
from eomt.metrics.components import ComponentSizes
from eomt.utils.tables import text_table

log = logging.getLogger("eomt")

TEMPERATURES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Temperatures of MSP that validation compares."""

# headings of the table, in the order of FIGURES
TITLES = ("AuPRC", "AUROC", "FPR95", "sIoU", "PPV", "F1*")

Figures = dict[str, dict[str, float]]
"""Figures of a data set by score and name, as `AnomalyMetric.compute` returns them; "" holds the set's own."""


class AnomalyEvaluation:
    """The anomaly scores of a task, and their metrics on its validation and test sets.

    Args:
        scores: Names of scores.
        temperature: Temperature of MSP and entropy; None takes 1, and lets validation compare several.
        normalize: MSP and entropy see class scores as shares of the classes instead of softmax inputs; see `msp`.
        component_sizes: Pixels of the smallest predicted and the smallest true component that count in sets that
            SegmentMeIfYouCan does not evaluate.

    Raises:
        UserError: For a value that is not allowed.
    """

    def __init__(
        self,
        scores: Sequence[str],
        temperature: float | None,
        normalize: bool,
        component_sizes: tuple[int, int] | None,
    ) -> None:
        unknown = [name for name in scores if name not in SCORES]
        if unknown or not scores or len(set(scores)) < len(scores):
            raise UserError(
                f"anomaly_scores: {listed(map(repr, scores))}; must be some of {', '.join(SCORES)}, each once"
            )
        if temperature is not None and not 0 < temperature < math.inf:
            raise UserError(f"temperature: {temperature}; must be above 0, or null for 1")
        if component_sizes is not None and min(component_sizes) < 1:
            raise UserError(f"component_sizes: {list(component_sizes)}; must be two numbers of pixels, at least 1")
        self.scores, self.normalize = tuple(scores), normalize
        self.compares_temperatures = temperature is None
        self.temperature = 1.0 if temperature is None else temperature
        candidates = [msp_at(candidate) for candidate in TEMPERATURES] if self.compares_temperatures else []
        self.val_metric = AnomalyMetric([*self.scores, *candidates], components=False)
        sizes = None if component_sizes is None else ComponentSizes(*component_sizes)
        self.test_metric = AnomalyMetric(self.scores, sizes)

    def maps(self, scores: Tensor) -> Tensor:
        """Return the anomaly maps, `(S, H, W)`, of class and void scores, `(C + 1, H, W)`."""
        return anomaly_maps(self.scores, scores, self.temperature, self.normalize)

    def update(self, metric: AnomalyMetric, dataset: str, scores: Tensor, maps: Tensor, truth: Tensor) -> None:
        """Add an image to a metric.

        Args:
            metric: `val_metric` or `test_metric`.
            dataset: Name of the data set that the image belongs to.
            scores: Class and void scores, `(C + 1, H, W)`.
            maps: The image's anomaly maps, `(S, H, W)`.
            truth: Labels, `(H, W)`: 1 = anomalous, 0 = not, 255 = ignored.
        """
        if metric is self.val_metric and self.compares_temperatures:
            candidates = [msp(scores[:-1], temperature, self.normalize) for temperature in TEMPERATURES]
            maps = torch.cat([maps, torch.stack(candidates)])
        metric.update(dataset, maps, truth)


def msp_at(temperature: float) -> str:
    """Return the name of MSP at a candidate temperature."""
    return f"msp at {temperature:g}"


def auprc_by_temperature(anomalies: dict[str, Figures]) -> dict[float, float]:
    """Return the AuPRC of MSP by temperature, as a mean over the data sets; empty if no set has anomalies."""
    measured = [figures for figures in anomalies.values() if not math.isnan(figures[msp_at(1.0)]["auprc"])]
    if not measured:
        return {}
    return {t: sum(figures[msp_at(t)]["auprc"] for figures in measured) / len(measured) for t in TEMPERATURES}


def best_temperature(auprc: dict[float, float]) -> float:
    """Return the temperature with the best AuPRC; of equally good ones, the one whose ratio to 1 is smallest."""
    return max(auprc, key=lambda t: (auprc[t], -abs(math.log(t))))


def flat_figures(anomalies: dict[str, Figures], stage: str) -> dict[str, float]:
    """Return all figures in one dict, such as `test_auprc/<set>/<score>` or, for a set, `test_anomalous/<set>`."""
    return {
        "/".join(filter(None, (f"{stage}_{figure}", dataset, score))): value
        for dataset, figures in anomalies.items()
        for score, of_score in figures.items()
        for figure, value in of_score.items()
    }


def anomaly_table(dataset: str, figures: Figures) -> list[str]:
    """Return the figures of a data set as lines of text: a row for each score, and the best score."""
    scores = [name for name in figures if name]
    images, share = int(figures[""]["images"]), figures[""]["anomalous"]
    rows = [[name, *(f"{figures[name].get(figure, math.nan):.4f}" for figure in FIGURES)] for name in scores]
    lines = [
        f"{dataset}: {images} images, {100 * share:.2f} % of the pixels are anomalous",
        *text_table([["score", *TITLES], *rows], numbers=range(1, 1 + len(FIGURES)), min_width=7),
    ]
    measured = [name for name in scores if not math.isnan(figures[name]["auprc"])]
    if not measured:
        return [*lines, "  No pixel is anomalous: there is nothing to measure"]
    best = max(measured, key=lambda name: figures[name]["auprc"])
    return [*lines, f"  Best AuPRC: {best}, {figures[best]['auprc']:.4f}; by chance {share:.4f}"]


def report_anomalies(dataset: str, figures: Figures) -> None:
    """Log the figures of a data set, see `anomaly_table`."""
    for line in anomaly_table(dataset, figures):
        log.info("%s", line)
