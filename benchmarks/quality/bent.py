"""Photos against themselves, bent and restyled: matches known everywhere.

The bending is a thin-plate spline (Bookstein 1989) through a grid of pegs, each moved at random;
colours, contrast and blur change as in the tuning's photometric augmentation, and then the colours
of another photo are taken over, mean and deviation of each channel.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from oeft_jax.augment import Photometric, photometric
from training.ground_truth import Match, evaluation_photos

PEGS = 4  # on a side
MOVED = 0.07  # of the side: deviation of a peg's displacement
POINTS = 16  # on a side


def bent(photo: np.ndarray, style: np.ndarray, seed: int) -> Match:
    """A photo [s, s, 3] as source, its bent self with the colours of `style` as target."""
    size, rng = photo.shape[0], np.random.default_rng(seed)
    pegs = _lattice(np.linspace(0, 1, PEGS))
    moved = pegs + rng.normal(0, MOVED, pegs.shape)
    pixels = _lattice(np.arange(size) / (size - 1))
    bend = RBFInterpolator(pegs, moved, kernel="thin_plate_spline")
    at = bend(pixels) * (size - 1)  # where a target pixel lies in the source
    rows, columns = at[:, 1].reshape(size, size), at[:, 0].reshape(size, size)
    planes = [
        map_coordinates(photo[..., c], (rows, columns), order=1, mode="mirror") for c in range(3)
    ]
    image = jnp.asarray(np.stack(planes, axis=-1), jnp.float32)[None]
    changed = np.asarray(_photometric(jax.random.key(seed), image)[0])
    points = _lattice(np.linspace(0, 1, POINTS + 2)[1:-1])
    found = bend(points) * (size - 1)
    inside = np.all((found >= 0) & (found <= size - 1), axis=1)
    target_points = points * (size - 1)
    return Match(photo, restyled(changed, style), found[inside], target_points[inside], float(size))


_photometric = jax.jit(lambda key, images: photometric(key, images, Photometric()))


def restyled(image: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Mean and deviation of each channel taken from another picture, clipped to [0, 1]."""
    mean, deviation = image.mean((0, 1)), image.std((0, 1)) + 1e-6
    moved = (image - mean) / deviation * style.std((0, 1)) + style.mean((0, 1))
    return np.asarray(np.clip(moved, 0, 1), np.float32)


def _lattice(place: np.ndarray) -> np.ndarray:
    """Every (x, y) of a square lattice in row order. [k] -> [k^2, 2]."""
    return np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)


def bent_photos(data: Path, num: int, size: int, seed: int) -> list[Match]:
    """`num` photos that nothing was trained on, each with the colours of the next."""
    photos = evaluation_photos(data, num, size)
    return [
        bent(photo, photos[(number + 1) % len(photos)], seed + number)
        for number, photo in enumerate(photos)
    ]
