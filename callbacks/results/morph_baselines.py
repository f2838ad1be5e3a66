"""What hand-made features tell about morphs: baselines that a network has to beat."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import expit
from torch import Tensor

from eomt.metrics.morph import MorphScores, figures_of
from eomt.tasks.data import FaceData

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# an SVM's time grows with the square of their number
MOST_TRAINED = 4000
# of the 256 patterns of 8 neighbors, those with at most two changes around the circle, and one for all others
UNIFORM = [code for code in range(256) if bin(code ^ (code >> 1 | (code & 1) << 7)).count("1") <= 2]
# deviations in pixels of the Gaussians whose differences with the image are its residuals
RESIDUALS = (0.5, 1.0, 2.0)


class Baseline(NamedTuple):
    """Features of an image, and a classifier of them.

    Args:
        title: What it looks at, in words.
        features: Of an image `(3, H, W)`: `(F,)`.
        classifier: Makes an untrained classifier.
    """

    title: str
    features: Callable[[Tensor], np.ndarray]
    classifier: "Callable[[], Pipeline]"


def baseline_figures(data: FaceData, parts: Sequence[str]) -> dict[str, float]:
    """Return the figures of `figures_of` for each baseline, as `eer_<baseline>` and `eer_<baseline>/<set>/<attack>`.

    They are trained on the training split, both classes weighing the same; images are as large as the network sees
    them. Mixed pictures tend to be softer than photos, and where a baseline does well, a network's good figures say
    little about morphs.

    Args:
        data: Faces.
        parts: Splits and test sets to measure on.
    """
    figures: dict[str, float] = {}
    for name, baseline in BASELINES.items():
        train, labels = _features(data, "train", baseline), np.array([face.label for face in data.faces("train")])
        # evenly, for the split lists one class after the other
        chosen = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), MOST_TRAINED)).round().astype(int))
        model = baseline.classifier().fit(train[chosen], labels[chosen])
        scores = np.concatenate([model.decision_function(_features(data, part, baseline)) for part in parts])
        faces = [face for part in parts for face in data.faces(part)]
        everything = MorphScores(
            expit(scores).astype(np.float64),
            np.array([face.label for face in faces], dtype=np.int64),
            np.array([face.attack for face in faces], dtype=object),
            np.array([face.dataset for face in faces], dtype=object),
        )
        found = figures_of(everything, np.nan, seed=0)
        figures |= _named(found, name)
    return figures


def _named(figures: Mapping[str, float], baseline: str) -> dict[str, float]:
    """Return EER and AUROC, with intervals, under names of their own."""
    named = {}
    for name, value in figures.items():
        figure, slash, part = name.partition("/")
        kind, _, end = figure.partition("_")
        if kind in ("eer", "auroc"):
            named["_".join(filter(None, (kind, baseline, end))) + slash + part] = value
    return named


def _features(data: FaceData, part: str, baseline: Baseline) -> np.ndarray:
    return np.array(data.map_images(baseline.features, part, f"Measuring {baseline.title}"))


def sharpness_and_contrast(image: Tensor) -> np.ndarray:
    """Return the logarithms of the spread of an image's Laplacian and of its luminance, `(2,)`.

    Args:
        image: `(3, H, W)`.
    """
    gray = image.float().mean(0).numpy()
    return np.log([ndimage.laplace(gray).std() + 1e-3, gray.std() + 1e-3])


def texture(image: Tensor) -> np.ndarray:
    """Return local binary patterns of an image's luminance and the energies of its residuals.

    Patterns are uniform ones of 8 neighbors (Ojala et al., PAMI 2002), as a histogram of 59 bins; energies are
    logarithms of the spread of each color's differences with Gaussians, over the image and its middle.

    Args:
        image: `(3, H, W)`.
    """
    pixels = image.float().numpy()
    return np.concatenate([_pattern_histogram(pixels.mean(0)), _residual_energies(pixels)])


def _pattern_histogram(gray: np.ndarray) -> np.ndarray:
    middle = gray[1:-1, 1:-1]
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    codes = np.zeros(middle.shape, dtype=np.int64)
    for bit, (row, column) in enumerate(around):
        neighbor = gray[row : row + middle.shape[0], column : column + middle.shape[1]]
        codes |= (neighbor >= middle).astype(np.int64) << bit
    counts = np.bincount(codes.ravel(), minlength=256)
    uniform = counts[UNIFORM]
    return np.sqrt(np.append(uniform, counts.sum() - uniform.sum()) / counts.sum())


def _residual_energies(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[-2:]
    rows, columns = slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4))
    energies = []
    for sigma in RESIDUALS:
        residual = pixels - ndimage.gaussian_filter(pixels, (0, sigma, sigma))
        energies += [part.std((1, 2)) for part in (residual, residual[:, rows, columns])]
    return np.log(np.concatenate(energies) + 1e-3)


def _logistic_regression() -> "Pipeline":
    # takes seconds to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))


def _support_vectors() -> "Pipeline":
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return make_pipeline(StandardScaler(), SVC(class_weight="balanced"))


BASELINES = {
    "sharpness": Baseline("sharpness and contrast alone", sharpness_and_contrast, _logistic_regression),
    "texture": Baseline("local binary patterns, residual energies and an SVM", texture, _support_vectors),
}
