"""Plain colour transfer: the linear Monge-Kantorovitch map (Pitie & Kokaram 2007).

Of all linear maps that give the source's colours the target's mean and covariance it is the one
that moves them least. It sees no places, so structure is the source's own.
"""

import numpy as np

from oeft_jax.pipeline import Parts

FLAT = 1e-10  # variance, of [0, 1] squared, below which a direction of colour holds nothing


def picture(source: np.ndarray, target: np.ndarray, parts: Parts, seed: int) -> np.ndarray:
    """The source in the target's colours, clipped. Needs neither network nor seed.

    Args:
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3] in [0, 1].
    Returns:
      [s, s, 3] float32 in [0, 1].
    """
    del parts, seed
    return linear_transport(source, target).clip(0, 1).astype(np.float32)


def linear_transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The source's colours with the target's mean and covariance. [..., 3] float64, not clipped.

    T = S^(-1/2) (S^(1/2) C S^(1/2))^(1/2) S^(-1/2) for the covariances S of the source and C of the
    target. A direction in which the source does not vary stays without variance.
    """
    ours, theirs = (np.asarray(image, np.float64).reshape(-1, 3) for image in (source, target))
    covariance_s, covariance_t = (np.cov(cells, rowvar=False) for cells in (ours, theirs))
    root, inverse = _power(covariance_s, 0.5), _power(covariance_s, -0.5)
    transport = inverse @ _power(root @ covariance_t @ root, 0.5) @ inverse
    moved = (ours - ours.mean(axis=0)) @ transport + theirs.mean(axis=0)  # T is symmetric
    return moved.reshape(source.shape)


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a positive semi-definite matrix; zero stays zero."""
    values, vectors = np.linalg.eigh(covariance)
    powers = np.where(values > FLAT, np.maximum(values, FLAT) ** exponent, 0)
    return (vectors * powers) @ vectors.T
