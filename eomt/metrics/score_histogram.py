"""Ranking metrics from a histogram of scores whose bins are split until what they hide cannot matter.

Nothing need be known of the scores' range: a bin is a prefix of the bits of a float32, mapped to an integer in the
order of the floats. Bins begin with 16 bits. Those within which the order of positives and negatives could change a
figure are split in 256 by the next 8 bits, and once more, after which a bin is one value and there is nothing left to
hide. The remaining bins change average precision and AUROC by at most `TOLERANCE`, which follows from their counts
alone, however the scores are spread. Each split needs another look at all scores, but no memory that grows with their
number.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 5e-4
"""What bins may change a figure by, at most."""

COARSE_SHIFT = 16
NUM_COARSE = 1 << (32 - COARSE_SHIFT)
FAN_OUT = 256
SHIFTS = (8, 0)
"""Bits that the bins of the first and second split leave open."""

LEAST_RECALL = 0.95


def score_keys(scores: Tensor) -> Tensor:
    """Return integers in [0, 2^32), int64, that are ordered as the float32 `scores` are; equal scores have one key."""
    # -0.0 + 0.0 is 0.0: they are equal and must not be two keys
    bits = (scores.float() + 0.0).view(torch.int32).long()
    return torch.where(bits < 0, -1 - bits, bits + 2**31)


def key_score(key: int) -> float:
    """Return the float32 whose key `key` is."""
    bits = key - 2**31 if key >= 2**31 else -1 - key
    return float(np.int32(bits).view(np.float32))


def coarse_counts(keys: Tensor, labels: Tensor) -> Tensor:
    """Count labels 0 and 1 in the coarse bins, int64 `(NUM_COARSE, 2)`, of keys and labels `(N,)`."""
    return torch.bincount((keys >> COARSE_SHIFT) * 2 + labels, minlength=2 * NUM_COARSE).view(-1, 2)


def child_counts(keys: Tensor, labels: Tensor, parents: Tensor, shift: int) -> Tensor:
    """Count labels 0 and 1 in the parts of some bins.

    Args:
        keys: int64 `(N,)`.
        labels: int64 `(N,)`, 0 or 1.
        parents: The bins, as `key >> (shift + 8)`, ascending, `(M,)`, M > 0.
        shift: Bits that the parts leave open.

    Returns:
        int64 `(M, 256, 2)`
    """
    prefix = keys >> (shift + 8)
    row = torch.searchsorted(parents, prefix).clamp_(max=len(parents) - 1)
    inside = parents[row] == prefix
    cell = row[inside] * FAN_OUT + ((keys[inside] >> shift) & (FAN_OUT - 1))
    counts = torch.bincount(cell * 2 + labels[inside], minlength=2 * FAN_OUT * len(parents))
    return counts.view(-1, FAN_OUT, 2)


@dataclass(frozen=True)
class ScoreHistogram:
    """Counts of negatives and positives in bins of scores, from the highest score to the lowest; no bin is empty.

    Args:
        keys: The least key of each bin, int64 `(K,)`, descending.
        shifts: The bits that each bin leaves open, int64 `(K,)`.
        counts: Negatives and positives, int64 `(K, 2)`.
    """

    keys: np.ndarray
    shifts: np.ndarray
    counts: np.ndarray

    @classmethod
    def coarse(cls, counts: np.ndarray) -> "ScoreHistogram":
        """Make a histogram of `coarse_counts`."""
        keys = np.arange(NUM_COARSE, dtype=np.int64) << COARSE_SHIFT
        return cls._ordered(keys, np.full(NUM_COARSE, COARSE_SHIFT), counts)

    @classmethod
    def _ordered(cls, keys: np.ndarray, shifts: np.ndarray, counts: np.ndarray) -> "ScoreHistogram":
        occupied = np.flatnonzero(counts.any(axis=1))
        order = occupied[np.argsort(-keys[occupied])]
        return cls(keys[order], shifts[order], counts[order])

    def unsettled(self, shift: int) -> np.ndarray:
        """Return which bins must be split, of those with `shift` bits more than a part has, ascending `(M,)`.

        Returns:
            The bins as `key >> (shift + 8)`.
        """
        open_bits = shift + 8
        negative, positive, false_positive, true_positive = self._cumulative()
        num_negative, num_positive = int(negative.sum()), int(positive.sum())
        if not num_negative or not num_positive:
            return np.zeros(0, dtype=np.int64)
        before = true_positive - positive, false_positive - negative
        # all positives of a bin might come first, or all negatives
        highest = true_positive / (true_positive + before[1]).clip(min=1)
        lowest = (before[0] + 1) / (before[0] + 1 + false_positive)
        change = np.where(positive > 0, positive / num_positive * (highest - lowest), 0)
        change = np.maximum(change, positive / num_positive * negative / num_negative / 2)
        change[self.shifts != open_bits] = 0

        order = np.argsort(-change)
        remaining = change.sum() - np.cumsum(change[order])
        # half of what is allowed at each split
        chosen = np.zeros(len(self.keys), dtype=bool)
        chosen[order[: int((remaining > TOLERANCE / 2).sum()) + 1]] = change.sum() > TOLERANCE / 2
        crossing = int(np.argmax(true_positive / num_positive >= LEAST_RECALL))
        chosen[crossing] |= negative[crossing] / num_negative > TOLERANCE
        best = self._f1(true_positive, false_positive).max()
        chosen |= self._f1(true_positive, before[1]) > best + TOLERANCE
        chosen &= self.shifts == open_bits
        return self.keys[chosen][::-1] >> open_bits

    def split(self, parents: np.ndarray, shift: int, counts: np.ndarray) -> "ScoreHistogram":
        """Return the histogram with some bins split.

        Args:
            parents: As returned by `unsettled`, `(M,)`.
            shift: As given to it.
            counts: Of the parts, `(M, 256, 2)`.
        """
        old = ~((self.shifts == shift + 8) & np.isin(self.keys >> (shift + 8), parents))
        keys = ((parents[:, None] << 8) + np.arange(FAN_OUT)) << shift
        return self._ordered(
            np.concatenate([self.keys[old], keys.ravel()]),
            np.concatenate([self.shifts[old], np.full(keys.size, shift)]),
            np.concatenate([self.counts[old], counts.reshape(-1, 2)]),
        )

    def figures(self) -> dict[str, float]:
        """Return the ranking metrics.

        Returns:
            `auprc`: average precision, sum over thresholds of (R_i - R_i-1) P_i. `auroc`. `fpr95`: false positive
            rate at the highest threshold with a recall of at least 0.95. `best_f1`, `threshold`: the largest F1 of
            all thresholds, and the highest one, a float32, that has it; positive is a score of at least that.

            All nan without positives; without negatives, `auroc` and `fpr95`.
        """
        negative, positive, false_positive, true_positive = self._cumulative()
        num_negative, num_positive = int(negative.sum()), int(positive.sum())
        figures = dict.fromkeys(("auprc", "auroc", "fpr95", "best_f1", "threshold"), np.nan)
        if not num_positive:
            return figures
        precision = true_positive / (true_positive + false_positive)
        f1 = self._f1(true_positive, false_positive)
        best = int(f1.argmax())
        figures |= {
            "auprc": float((positive * precision).sum() / num_positive),
            "best_f1": float(f1[best]),
            "threshold": key_score(int(self.keys[best])),
        }
        if num_negative:
            crossing = int(np.argmax(true_positive / num_positive >= LEAST_RECALL))
            # of equal scores, half count as in the right order
            figures |= {
                "auroc": float((negative / num_negative * (true_positive - positive / 2) / num_positive).sum()),
                "fpr95": float(false_positive[crossing] / num_negative),
            }
        return figures

    def _cumulative(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return negatives and positives in each bin, and from the first bin on to the end of each, `(K,)` all."""
        negative, positive = self.counts.T
        return negative, positive, np.cumsum(negative), np.cumsum(positive)

    def _f1(self, true_positive: np.ndarray, false_positive: np.ndarray) -> np.ndarray:
        return 2 * true_positive / (true_positive + false_positive + self.counts[:, 1].sum())
