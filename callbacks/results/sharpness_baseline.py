"""What sharpness and contrast alone tell about morphs: a baseline that a network has to beat."""

import numpy as np
from scipy import ndimage
from torch import Tensor

from eomt.metrics.error_rates import curve_figures, distinct_scores, error_counts
from eomt.tasks.data import FaceData


def sharpness_baseline(data: FaceData) -> float:
    """Return the EER, in [0, 1], of a logistic regression on two features of the whole image.

    It is trained on the training split, both classes weighing the same, and measured on the test split, or where there
    is none, on validation; images are as large as the network sees them. Mixed pictures tend to be softer than photos,
    and where this baseline does well, a network's good figures say little about morphs.
    """
    # takes seconds to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    part = measured_part(data)
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    model.fit(_features(data, "train"), np.array(data.labels("train")))
    _, morph, bona_fide = distinct_scores(model.decision_function(_features(data, part)), np.array(data.labels(part)))
    return float(curve_figures(error_counts(morph, bona_fide))["eer"][0])


def measured_part(data: FaceData) -> str:
    """Return the split that the baseline is measured on: "test", or "val" where there is no test split."""
    return "test" if data.labels("test") else "val"


def _features(data: FaceData, part: str) -> np.ndarray:
    return np.array(data.map_images(sharpness_and_contrast, part, "Measuring sharpness"))


def sharpness_and_contrast(image: Tensor) -> tuple[float, float]:
    """Return the logarithms of the spread of an image's Laplacian and of its luminance.

    Args:
        image: `(3, H, W)`.
    """
    gray = image.float().mean(0).numpy()
    return float(np.log(ndimage.laplace(gray).std() + 1e-3)), float(np.log(gray.std() + 1e-3))
