"""Means and their intervals, where there may be nothing to average."""

import numpy as np

NUM_RESAMPLES = 1000
# percent beyond each limit of an interval
TAIL = 2.5


def mean(values: np.ndarray) -> float:
    """Return the mean, or nan of nothing, without numpy's warning."""
    return float(values.mean()) if len(values) else np.nan


def with_exact_limits(value: float, interval: tuple[float, float], number: int) -> tuple[float, float]:
    """Return a bootstrap's 95 % interval, with a Clopper-Pearson limit where a share is 0 or 1.

    Where none or all of `number` cases are errors, every resample is the same and its percentiles say nothing. The
    exact limits are then 0 and 1 - 0.025^(1/n), or 0.025^(1/n) and 1 (Clopper and Pearson, Biometrika 1934). They also
    hold for the mean of n values in [0, 1] that are all 0 or all 1: it is at most the share of values above 0.

    Args:
        value: The share or mean, in [0, 1].
        interval: What the bootstrap says.
        number: Independent cases, at least 1.
    """
    low, high = interval
    limit = (TAIL / 100) ** (1 / number)
    if value == 0:
        high = max(high, 1 - limit)
    if value == 1:
        low = min(low, limit)
    return low, high


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `(K,)` values in [0, 1]; nan of nothing.

    Values are drawn with replacement; see `with_exact_limits` for those that are all 0 or all 1.
    """
    if not len(values):
        return np.nan, np.nan
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(means, [TAIL, 100 - TAIL])
    return with_exact_limits(float(values.mean()), (float(low), float(high)), len(values))
