"""What sharpness and contrast alone tell about morphs: a baseline that a network has to beat."""

import numpy as np
from scipy import ndimage, optimize

from datamodules.common.threads import map_in_threads
from datamodules.faces.dataset import read_face
from datamodules.faces.folders import Face
from datamodules.faces.morph_faces import MorphFaces
from eomt.metrics.error_rates import curve_figures, distinct_scores, error_counts

# pull of the weights towards 0, which keeps them finite where a feature parts the classes
RIDGE = 1e-3


def sharpness_baseline(data: MorphFaces) -> float:
    """Return the EER, in [0, 1], of a logistic regression on two features of the whole image.

    It is trained on the training split, both classes weighing the same, and measured on the test split, or where there
    is none, on validation; images are as large as the network sees them. Mixed pictures tend to be softer than photos,
    and where this baseline does well, a network's good figures say little about morphs.
    """
    measured = data.faces("test") or data.faces("val")
    train, test = (_features(faces, data.img_size) for faces in (data.faces("train"), measured))
    mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-12
    weights = _fit((train - mean) / spread, np.array([face.label for face in data.faces("train")]))
    scores = ((test - mean) / spread) @ weights[:-1] + weights[-1]
    _, morph, bona_fide = distinct_scores(scores, np.array([face.label for face in measured]))
    return float(curve_figures(error_counts(morph, bona_fide))["eer"][0])


def _features(faces: list[Face], size: tuple[int, int]) -> np.ndarray:
    """Return sharpness (log of the Laplacian's spread) and contrast (log of the spread) of the luminance, `(N, 2)`."""

    def features(face: Face) -> tuple[float, float]:
        gray = read_face(face, size).float().mean(0).numpy()
        return float(np.log(ndimage.laplace(gray).std() + 1e-3)), float(np.log(gray.std() + 1e-3))

    return np.array(map_in_threads(features, faces, "Measuring sharpness"))


def _fit(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the weights, the constant last, of a logistic regression in which both classes weigh the same."""
    inputs = np.pad(features, ((0, 0), (0, 1)), constant_values=1.0)
    sign = np.where(labels == 1, 1.0, -1.0)
    share = 1 / (2 * np.where(labels == 1, (labels == 1).sum(), (labels == 0).sum()))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (inputs @ weights)
        gradient = -(inputs * (share * sign / (1 + np.exp(margin)))[:, None]).sum(axis=0)
        return float(
            (share * np.logaddexp(0, -margin)).sum() + RIDGE * weights @ weights
        ), gradient + 2 * RIDGE * weights

    return np.asarray(optimize.minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x)
