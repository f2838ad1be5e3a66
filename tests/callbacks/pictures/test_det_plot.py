import numpy as np

from callbacks.pictures.det_plot import HEIGHT, WIDTH, det_plot, score_histograms
from eomt.metrics.error_rates import error_curve
from eomt.pictures.colors import palette


def places(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return rows and columns, left of the legend, that have a color, (N, 2)."""
    return np.argwhere((picture[:, : WIDTH * 3 // 5] == color).all(-1))


def test_a_better_detector_has_the_lower_curve() -> None:
    labels = np.arange(400) % 2
    noise = np.random.default_rng(0).normal(0, 0.1, 400)
    curves = {}
    for name, distance in (("good", 0.3), ("poor", 0.1)):
        _, macer, bscer = error_curve(np.clip(0.4 + distance * labels + noise, 0, 1), labels)
        curves[name] = (macer, bscer)
    picture = np.asarray(det_plot(curves))

    assert picture.shape[0] == HEIGHT
    # the legend stands to the right of the plot
    assert picture.shape[1] > WIDTH
    good, poor = (places(picture, color) for color in palette(2))
    # rows grow downwards
    assert good[:, 0].mean() > poor[:, 0].mean() + 50
    assert good[:, 1].mean() < poor[:, 1].mean()


def test_a_perfect_detector_stays_at_the_edge_and_a_useless_one_outside() -> None:
    labels = np.arange(20) % 2
    curves = {str(k): error_curve(scores, labels)[1:] for k, scores in enumerate((labels * 0.9, 0.9 - labels * 0.9))}
    perfect, useless = (places(np.asarray(det_plot(curves)), color) for color in palette(2))
    assert 0 < len(perfect) < 10 * HEIGHT
    assert len(useless) == 0
    det_plot({})


def test_histograms_peak_where_the_scores_are() -> None:
    scores = np.array([0.11] * 30 + [0.31] * 30 + [0.51] * 40)
    labels = np.array([0] * 30 + [1] * 30 + [1] * 40)
    picture = np.asarray(score_histograms(scores, labels, 0.2))
    bona_fide, morph = (places(picture, color) for color in palette(2))

    def highest(points: np.ndarray) -> int:
        return int(points[points[:, 0] == points[:, 0].min(), 1].mean())

    assert highest(bona_fide) < highest(morph)
    # all bona fide scores are in one bin, the morphs in two
    assert bona_fide[:, 0].min() < morph[:, 0].min()
