"""How much of one network's features is in another's, channel counts being different.

Both measures are float64 on rows of positions: [n, c] of the one, [n, d] of the other.
"""

import numpy as np

RIDGE = 1e-3  # relative to the mean variance of a channel
ROUNDS = 50  # of fitting through a ReLU at most; most channels take fewer than ten


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019), in [0, 1]; nothing is fitted."""
    x, y = (np.asarray(part, np.float64) - part.mean(0, dtype=np.float64) for part in (x, y))
    cross = np.linalg.norm(x.T @ y) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y) + 1e-30))


def fit_ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear map (kernel [c, d], bias [d]) from x to y with the least regularised error."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram = (x - mean_x).T @ (x - mean_x) / len(x) + _ridge(x) * np.eye(x.shape[1])
    kernel = np.linalg.solve(gram, (x - mean_x).T @ (y - mean_y) / len(x))
    return kernel, mean_y - mean_x @ kernel


def _ridge(x: np.ndarray) -> float:
    """What is added to the mean square along every axis; above 0 for an x of zeros too."""
    return float(RIDGE * np.var(x, axis=0, dtype=np.float64).mean() + 1e-12)


def fit_through_relu(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map (kernel [c, d], bias [d]) that ends in a ReLU, as y does, of the least regularised error.

    Where y is 0 whatever the map says below 0 is right, so each channel is fitted to those rows
    alone in which it or the map is above 0, until they stay the same (Newton's method on a convex
    error, quadratic in pieces).
    """
    ones = np.ones((len(x), 1))
    inputs = np.concatenate([x, ones], axis=1).astype(np.float64)
    damping = np.diag([*np.full(x.shape[1], _ridge(x)), 0.0]) * len(x)  # the bias is free
    kernel, bias = fit_ridge(x, y)
    maps = np.concatenate([kernel, bias.reshape(1, -1)])
    for channel in range(y.shape[1]):
        target, active = y[:, channel], np.zeros(len(x), bool)
        for _ in range(ROUNDS):
            before, active = active, (target > 0) | (inputs @ maps[:, channel] > 0)
            if np.array_equal(before, active):
                break
            rows = inputs[active]
            gram = rows.T @ rows + damping
            maps[:, channel] = np.linalg.solve(gram, rows.T @ target[active])
    return maps[:-1], maps[-1]


def correlation(said: np.ndarray, true: np.ndarray) -> float:
    """Pearson correlation of all numbers of two [n, d].

    Channel means are taken out first: they are easy to get right and would hide the rest.
    """
    said, true = (np.asarray(part, np.float64) for part in (said, true))
    said, true = said - said.mean(0), true - true.mean(0)
    scale = np.linalg.norm(said) * np.linalg.norm(true)
    return float(np.sum(said * true) / (scale + 1e-30))
