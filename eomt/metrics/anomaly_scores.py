"""Anomaly scores of pixels, all from the class and mask logits of one forward pass; higher is more anomalous.

They start from how much of each known class the queries see in a place,
L_c = sum over q of softmax(class_q)_c * sigmoid(mask_q), and from how much of "no object" they see there. L lies
mostly in [0, 1] and is close to one-hot, which makes softmax(L) nearly flat: with 19 classes and one L_c of 1 its
largest probability is 0.131. A temperature below 1, or `normalize`, spreads it.

With one class MSP and entropy are the same everywhere, for there is nothing to be torn between.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCORES = ("msp", "max_logit", "entropy", "energy", "rba", "void")
"""Names of the scores."""

# rows scored at once: bounds the temporary maps of softmax and the like, however large the image
STRIP = 128


def msp(class_scores: Tensor, temperature: float = 1.0, normalize: bool = False) -> Tensor:
    """Return 1 - max p, of the maximum softmax probability (Hendrycks and Gimpel, ICLR 2017), `(H, W)`.

    Args:
        class_scores: L, `(C, H, W)`.
        temperature: T in p = softmax(L / T).
        normalize: p is L to the power 1 / T, divided by the sum over the classes; with T = 1 simply L's shares.
    """
    logits = _logits(class_scores, temperature, normalize)
    largest, index = logits.max(0, keepdim=True)
    # the sum of the other probabilities, for 1 - p rounds to 0 long before it is
    others = (logits - largest).exp_().scatter_(0, index, 0.0).sum(0)
    return others / (1 + others)


def max_logit(class_scores: Tensor) -> Tensor:
    """Return - max L (Hendrycks et al., ICML 2022), `(H, W)`, of L `(C, H, W)`."""
    return -class_scores.amax(0)


def entropy(class_scores: Tensor, temperature: float = 1.0, normalize: bool = False) -> Tensor:
    """Return - sum of p log p, in nats, `(H, W)`; see `msp` for p and the arguments."""
    log_p = _logits(class_scores, temperature, normalize).log_softmax(0)
    # subtracted from 0, since minus a sum of zeros would be -0
    return 0 - (log_p.exp() * log_p).sum(0)


def energy(class_scores: Tensor) -> Tensor:
    """Return - log sum exp L (Liu et al., NeurIPS 2020), `(H, W)`, of L `(C, H, W)`."""
    return -class_scores.logsumexp(0)


def rba(class_scores: Tensor) -> Tensor:
    """Return - sum of tanh L, rejected by all (Nayal et al., ICCV 2023), `(H, W)`, of L `(C, H, W)`."""
    return -class_scores.tanh().sum(0)


def anomaly_maps(names: Sequence[str], scores: Tensor, temperature: float = 1.0, normalize: bool = False) -> Tensor:
    """Return the scores of an image, `(S, H, W)`.

    Args:
        names: S of `SCORES`.
        scores: `(C + 1, H, W)`, as of `eomt.models.eomt.class_and_void_scores`.
        temperature: Of MSP and entropy.
        normalize: Likewise.
    """
    strips = [_strip_maps(names, strip, temperature, normalize) for strip in scores.split(STRIP, dim=1)]
    return torch.cat(strips, dim=1)


def _strip_maps(names: Sequence[str], scores: Tensor, temperature: float, normalize: bool) -> Tensor:
    class_scores, void = scores[:-1], scores[-1]
    score_of = {
        "msp": lambda: msp(class_scores, temperature, normalize),
        "max_logit": lambda: max_logit(class_scores),
        "entropy": lambda: entropy(class_scores, temperature, normalize),
        "energy": lambda: energy(class_scores),
        "rba": lambda: rba(class_scores),
        "void": lambda: void,
    }
    return torch.stack([score_of[name]() for name in names])


def _logits(class_scores: Tensor, temperature: float, normalize: bool) -> Tensor:
    if normalize:
        class_scores = class_scores.clamp(min=torch.finfo(class_scores.dtype).tiny).log()
    return class_scores / temperature
