"""Means and their intervals, where there may be nothing to average."""

import numpy as np

NUM_RESAMPLES = 1000


def mean(values: np.ndarray) -> float:
    """Return the mean, or nan of nothing, without numpy's warning."""
    return float(values.mean()) if len(values) else np.nan


def bootstrap_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `(K,)` values, resampled with replacement; nan of nothing."""
    if not len(values):
        return np.nan, np.nan
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
