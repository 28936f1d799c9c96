"""How much of one network's features is in another's, channel counts being different.

Both measures are float64 on rows of positions: [n, c] of the one, [n, d] of the other.
"""

import numpy as np

RIDGE = 1e-3  # relative to the mean variance of a channel


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019), in [0, 1]; nothing is fitted."""
    x, y = (np.asarray(part, np.float64) - part.mean(0, dtype=np.float64) for part in (x, y))
    cross = np.linalg.norm(x.T @ y) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y) + 1e-30))


def fit_ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear map (kernel [c, d], bias [d]) from x to y with the least regularised error."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram = (x - mean_x).T @ (x - mean_x) / len(x)
    damping = (RIDGE * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
    kernel = np.linalg.solve(gram + damping, (x - mean_x).T @ (y - mean_y) / len(x))
    return kernel, mean_y - mean_x @ kernel


def mapped_correlation(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> float:
    """Pearson correlation of y with what a linear map of x says, on rows the map was not fitted on.

    The map ends in a ReLU, as y does. Channel means are taken out first: they are easy to get
    right and would hide the rest.

    Args:
      x: ([n, c] to fit on, [m, c] to test on).
      y: ([n, d], [m, d]) of the same rows.
    """
    kernel, bias = fit_ridge(x[0], y[0])
    said = np.maximum(np.asarray(x[1], np.float64) @ kernel + bias, 0)
    said, true = (part - part.mean(0) for part in (said, np.asarray(y[1], np.float64)))
    scale = np.linalg.norm(said) * np.linalg.norm(true)
    return float(np.sum(said * true) / (scale + 1e-30))
