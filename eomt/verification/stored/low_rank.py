"""Low-rank pairs as they lie in files: the size of B A without the product, and the rank of a change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# singular values that are looked at, of a change that may be of low rank
MOST_RANKS = 64
# share of a change's energy (squared singular values) that its rank stands for: the rest is rounding
ENERGY = 0.999


@dataclass(frozen=True)
class Pair:
    """An adapter of one layer.

    Attributes:
        path: Path of the layer.
        adapter: Name of the adapter, where the file has several; else empty.
        blocks: Matrices A (r, in) and B (out, r); several where slices of a weight have pairs of their own.
        weight_shape: Shape of the weight that it is for; its first size is 0 where slices do not tell it.
        factor: What B A is multiplied with; None where the file does not say.
        magnitude: DoRA's lengths.
        starts_at_zero: Which half is zero before training.
        has_start: Whether half of the rank is the pair that PiSSA began with, which is subtracted.
    """

    path: str
    adapter: str
    blocks: Sequence[tuple[Tensor, Tensor]]
    weight_shape: tuple[int, ...]
    factor: float | None = None
    magnitude: Tensor | None = None
    starts_at_zero: str = "B"
    has_start: bool = False

    @property
    def rank(self) -> int:
        """Rows of A, of all slices together."""
        return sum(a.shape[0] for a, _ in self.blocks)

    @property
    def parameters(self) -> int:
        """Number of values."""
        return sum(a.numel() + b.numel() for a, b in self.blocks) + (
            0 if self.magnitude is None else self.magnitude.numel()
        )

    @property
    def other_half(self) -> str:
        """The half that is not zero before training."""
        return "A" if self.starts_at_zero == "B" else "B"

    def is_zero(self, half: str) -> bool:
        """Return whether all values of "A" or "B" are zero, be it in one of several slices."""
        return any(not block["AB".index(half)].any() for block in self.blocks)

    def is_finite(self) -> bool:
        """Return whether no value is NaN or infinite."""
        values = [half for block in self.blocks for half in block]
        return all(value.isfinite().all() for value in [*values, *([] if self.magnitude is None else [self.magnitude])])

    def norm(self) -> float:
        """Return the Frobenius norm of factor * B A; the factor is 1 where it is unknown."""
        return (
            abs(1.0 if self.factor is None else self.factor)
            * sum(product_norm(a, b) ** 2 for a, b in self.blocks) ** 0.5
        )

    def product(self) -> Tensor:
        """Return factor * B A, (out, in)."""
        factor = 1.0 if self.factor is None else self.factor
        return torch.cat([factor * (b.float() @ a.float()) for a, b in self.blocks])


def is_finite(value: Tensor) -> bool:
    """Return whether a tensor holds no NaN and no infinity, as one of whole numbers never does."""
    return not value.is_floating_point() or bool(value.isfinite().all())


def product_norm(a: Tensor, b: Tensor) -> float:
    """Return the Frobenius norm of B A in double precision.

    ||B A||^2 = tr(A^T B^T B A) = sum of (B^T B) * (A A^T), two matrices of r rows; the product itself is made where it
    is smaller than these.

    Args:
        a: (r, in).
        b: (out, r).
    """
    a, b = a.double(), b.double()
    if a.shape[0] ** 2 > a.shape[1] * b.shape[0]:
        return float((b @ a).norm())
    # rounding may leave a sum of about zero below it
    return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0)) ** 0.5


def rank_of_change(change: Tensor, seed: int = 0) -> tuple[int | None, float]:
    """Return the rank of a matrix, and the share of its energy that this rank holds.

    Found by a randomized singular value decomposition (Halko, Martinsson and Tropp 2011) of at most 64 directions.

    Args:
        change: (out, in).
        seed: Of the random directions.

    Returns:
        The smallest rank that holds 99.9 % of the energy, None where 64 directions hold less; and the share.
    """
    change = change.float()
    total = float(change.double().square().sum())
    if total == 0:
        return 0, 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # a few more directions than are looked at make the last of them exact
        directions = min(MOST_RANKS + 8, *change.shape)
        values = torch.svd_lowrank(change, q=directions, niter=3)[1][:MOST_RANKS]
    shares = values.double().square().cumsum(0) / total
    enough = (shares >= ENERGY).nonzero()
    if len(enough) and int(enough[0]) + 1 < min(change.shape):
        return int(enough[0]) + 1, float(shares[enough[0]])
    return None, float(shares[-1])
