"""Means over pairs with bootstrap intervals (percentile method)."""

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over pairs, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """The mean of one number a pair; pairs are what is drawn again. [n], n >= 1."""
    values = np.asarray(values, np.float64)
    value = low = high = float(values.mean())
    if np.ptp(values) > 0:
        low, high = bootstrap(
            (values,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(value, float(low), float(high), len(values))


def ratio(after: np.ndarray, before: np.ndarray, *, seed: int = 0) -> Estimate:
    """Geometric mean over pairs of after / before, both > 0. [n] each."""
    logs = mean(np.log(after) - np.log(before), seed=seed)
    value, low, high = (float(np.exp(x)) for x in (logs.value, logs.low, logs.high))
    return Estimate(value, low, high, logs.pairs)
