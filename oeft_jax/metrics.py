"""Scores of finished images: Frechet distance, PSNR, SSIM, and what is kept of structure and style.

The Frechet functions run on the host in float64: they subtract large traces, which costs float32
three to four digits. The others are jax functions of images or feature maps [..., h, w, c]; leading
axes are a batch and remain in the result.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from oeft_jax._checks import InputError, check_range
from oeft_jax.models.layers import DIMS

Array64 = NDArray[np.float64]

SSIM_WINDOW = 11  # pixels; this and the next three: Wang et al. 2004, Sec. III-C
SSIM_SIGMA = 1.5  # pixels
SSIM_K1 = 0.01
SSIM_K2 = 0.03
EDGE_MARGIN = 2  # pixels lost on each side: one to the box filter, one to the differences
EPS = 1e-12  # inside roots and quotients, so that constant inputs have finite gradients


def feature_statistics(samples: ArrayLike) -> tuple[Array64, Array64]:
    """Mean and covariance (divisor n - 1) of the rows; one row is a point mass, covariance 0.

    Args:
      samples: [n, d], n >= 1, finite.
    Returns:
      [d] and [d, d] float64.
    Raises:
      InputError: not a non-empty, finite matrix.
    """
    mean, root = _mean_and_root(_rows("samples", samples))
    return mean, root.T @ root


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Frechet distance of two Gaussians fitted to samples; the FID formula.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)   (Heusel et al. 2017)

    With fewer samples than features the last trace comes from the samples themselves: C1 = A^T A
    and C2 = B^T B for centred A and B, so the non-zero eigenvalues of C1 C2 are those of
    (A B^T)(A B^T)^T. Nothing is then degenerate. Covariances are never regularised: adding eps, as
    common implementations do when their root fails, moves the distance by much more than eps.

    Args:
      a: [n, d] samples; one row is a point mass.
      b: [m, d] samples.
    Returns:
      The distance, >= 0. Biased upwards for few samples: compare only at equal n and m.
    Raises:
      InputError: not two non-empty, finite matrices of one width.
    """
    a, b = _rows("a", a), _rows("b", b)
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"a has {a.shape[1]} features and b {b.shape[1]}; accepted: as many in both."
        )
    mean_a, root_a = _mean_and_root(a)
    mean_b, root_b = _mean_and_root(b)
    if min(len(a), len(b)) < a.shape[1]:
        cross = float(np.linalg.norm(root_a @ root_b.T, "nuc"))  # sum of singular values
    else:
        cross = _trace_of_root(root_a.T @ root_a, root_b.T @ root_b)
    return _distance(mean_a - mean_b, np.sum(root_a**2) + np.sum(root_b**2), cross)


def frechet_to_statistics(samples: ArrayLike, mean: ArrayLike, cov: ArrayLike) -> float:
    """Squared Frechet distance from samples to a stored Gaussian, as `frechet_distance`.

    One row is a point mass: |f - m|^2 + tr C, the nearest thing to "the FID of an image". The
    second term does not depend on the image, so it ranks images by their distance to the mean.

    Args:
      samples: [n, d].
      mean: [d].
      cov: [d, d], symmetric and positive semi-definite.
    Returns:
      The distance, >= 0.
    Raises:
      InputError: shapes that do not fit one another, or values that are not finite.
    """
    rows = _rows("samples", samples)
    width = rows.shape[1]
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.shape != (width,) or cov.shape != (width, width):
        raise InputError(
            f"mean has shape {mean.shape} and cov {cov.shape}; accepted for samples of {width} "
            f"features: ({width},) and ({width}, {width})."
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise InputError("mean and cov hold NaN or infinity; accepted: finite numbers.")
    mean_rows, root = _mean_and_root(rows)
    if len(rows) < width:  # A^T A C2 and A C2 A^T share their non-zero eigenvalues
        cross = _sum_of_roots(root @ cov @ root.T)
    else:
        cross = _trace_of_root(root.T @ root, cov)
    return _distance(mean_rows - mean, np.sum(root**2) + np.trace(cov), cross)


def _rows(name: str, samples: ArrayLike) -> Array64:
    rows = np.asarray(samples, np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InputError(
            f"{name} has shape {rows.shape}; accepted: [samples, features], none empty."
        )
    if not np.isfinite(rows).all():
        raise InputError(f"{name} holds NaN or infinity; accepted: finite numbers.")
    return rows


def _mean_and_root(rows: Array64) -> tuple[Array64, Array64]:
    """Mean and A with A^T A = covariance; A is 0 for a single row."""
    mean = rows.mean(axis=0)
    return mean, (rows - mean) / np.sqrt(max(len(rows) - 1, 1))


def _trace_of_root(cov_a: Array64, cov_b: Array64) -> float:
    """tr (C1 C2)^(1/2) = tr (S C2 S)^(1/2) with S = C1^(1/2): symmetric, so no complex numbers."""
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return _sum_of_roots(root @ cov_b @ root)


def _sum_of_roots(symmetric: Array64) -> float:
    values = np.linalg.eigvalsh((symmetric + symmetric.T) / 2)
    return float(np.sum(np.sqrt(np.clip(values, 0, None))))


def _distance(shift: Array64, traces: float, cross: float) -> float:
    return max(float(shift @ shift + traces - 2 * cross), 0.0)  # rounding may leave it below 0


def psnr(a: jax.Array, b: jax.Array, *, peak: float = 1.0) -> jax.Array:
    """Peak signal to noise ratio, 10 log10(peak^2 / mean squared error).

    Args:
      a: [..., h, w, c] float32.
      b: as `a`.
      peak: > 0; the largest value an image can hold.
    Returns:
      [...] decibels; infinite for equal images.
    Raises:
      InputError: a and b differ in shape, or peak is not positive.
    """
    _check_images(a, b)
    check_range("peak", peak, 0.0, open_low=True)
    error = jnp.mean(jnp.square(a - b), axis=(-3, -2, -1))
    return 10 * jnp.log10(peak**2 / error)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004, Eq. 13), for images in [0, 1].

    A Gaussian window inside the image only, moments weighted by it (no n - 1 correction), the mean
    over positions and channels. Each channel is compared on its own, without conversion to grey.

    Args:
      a: [..., h, w, c] float32 in [0, 1], h and w >= 11.
      b: as `a`.
    Returns:
      [...] in [-1, 1]; 1 for equal images.
    Raises:
      InputError: a and b differ in shape, or are smaller than the window.
    """
    _check_images(a, b, smallest=SSIM_WINDOW)
    moments = _gaussian_valid(jnp.stack([a, b, a * a, b * b, a * b]))
    mean_a, mean_b = moments[0], moments[1]
    var_a, var_b = moments[2] - mean_a**2, moments[3] - mean_b**2
    cov = moments[4] - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    upper = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    lower = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return jnp.mean(upper / lower, axis=(-3, -2, -1))


def likeness(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(`psnr`, `ssim`) of images [..., h, w, c] in [0, 1]; 0 for the latter where they are too small."""
    near = psnr(a, b)
    return near, ssim(a, b) if min(a.shape[-3:-1]) >= SSIM_WINDOW else jnp.zeros_like(near)


def _gaussian_valid(x: jax.Array) -> jax.Array:
    """[..., h, w, c] -> [..., h - 10, w - 10, c]; one axis after the other, channels as images."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    kernel = jnp.asarray(weights / weights.sum(), x.dtype).reshape(SSIM_WINDOW, 1, 1, 1)
    x = jnp.moveaxis(x, -1, -3)
    planes = x.reshape(-1, *x.shape[-2:], 1)
    for each in (kernel, kernel.swapaxes(0, 1)):
        planes = jax.lax.conv_general_dilated(
            planes, each, (1, 1), "VALID", dimension_numbers=DIMS, precision="highest"
        )
    return jnp.moveaxis(planes.reshape(*x.shape[:-2], *planes.shape[1:3]), -3, -1)


def edge_agreement(a: jax.Array, b: jax.Array) -> jax.Array:
    """Do the edges lie in the same places? Pearson correlation of gradient magnitudes.

    Grey is the mean of the channels, smoothed by a 3 x 3 box, then differenced centrally, both
    inside the image only. Brightness, contrast and the sign of an edge do not matter, so an image
    and its restyled version agree where the drawing is the same.

    Args:
      a: [..., h, w, c] float32 in [0, 1], h and w >= 5.
      b: as `a`.
    Returns:
      [...] in [-1, 1]; 1 for equal images, 0 when one has constant gradients (no edges).
    Raises:
      InputError: a and b differ in shape, or are too small.
    """
    _check_images(a, b, smallest=2 * EDGE_MARGIN + 1)
    x, y = _gradient_magnitude(a), _gradient_magnitude(b)
    x = x - jnp.mean(x, axis=(-2, -1), keepdims=True)
    y = y - jnp.mean(y, axis=(-2, -1), keepdims=True)
    deviation_x = jnp.sqrt(jnp.mean(x * x, axis=(-2, -1)) + EPS)
    deviation_y = jnp.sqrt(jnp.mean(y * y, axis=(-2, -1)) + EPS)
    return jnp.mean(x * y, axis=(-2, -1)) / (deviation_x * deviation_y)


def _gradient_magnitude(images: jax.Array) -> jax.Array:
    """[..., h, w, c] -> [..., h - 4, w - 4]; EPS keeps flat regions differentiable."""
    grey = jnp.mean(images, axis=-1)
    h, w = grey.shape[-2] - 2, grey.shape[-1] - 2
    rows = grey[..., :h, :] + grey[..., 1 : h + 1, :] + grey[..., 2:, :]
    smooth = (rows[..., :w] + rows[..., 1 : w + 1] + rows[..., 2:]) / 9
    down = (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]) / 2
    right = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]) / 2
    return jnp.sqrt(down**2 + right**2 + EPS)


def self_similarity_distance(fa: jax.Array, fb: jax.Array) -> jax.Array:
    """Mean squared difference of two maps' self-similarities: how far the layout has changed.

    The self-similarity of a map is the cosine between its features at every two positions (as in
    Splice, Tumanyan et al. 2022), centred over the positions first, as in the paper's Eq. 4-5. A
    shift or a scale common to all positions cancels.

    Args:
      fa: [..., h, w, c] float32.
      fb: [..., h, w, c'] float32, the same h and w.
    Returns:
      [...] in [0, 4]; 0 for equal maps.
    Raises:
      InputError: fa and fb differ in a size other than the channels.
    """
    _check_maps(fa, fb)
    if fa.shape[:-1] != fb.shape[:-1]:
        raise InputError(
            f"fa has shape {fa.shape} and fb {fb.shape}; accepted: equal but for channels."
        )
    difference = _self_similarity(fa) - _self_similarity(fb)
    return jnp.mean(jnp.square(difference), axis=(-2, -1))


def _self_similarity(features: jax.Array) -> jax.Array:
    """[..., h, w, c] -> [..., p, p]; EPS is inside the root, so zeros have a finite gradient."""
    cells = _cells(features)
    centred = cells - jnp.mean(cells, axis=-2, keepdims=True)  # Eq. 4-5
    unit = centred * jax.lax.rsqrt(jnp.sum(centred * centred, axis=-1, keepdims=True) + EPS)
    return jnp.einsum("...pc,...qc->...pq", unit, unit, precision="highest")


def gram_distance(fa: jax.Array, fb: jax.Array) -> jax.Array:
    """Squared difference of two maps' Gram matrices over fb's squared norm: how far the style is.

    The Gram (Gatys et al. 2016) is F^T F / positions, so the two may differ in size; relative to
    `fb`, the target, the result has no unit.

    Args:
      fa: [..., h, w, c] float32.
      fb: [..., h', w', c] float32.
    Returns:
      [...] >= 0; 0 for equal Grams, 1 for fa = 0.
    Raises:
      InputError: fa and fb differ in channels or leading axes.
    """
    _check_maps(fa, fb)
    if fa.shape[:-3] != fb.shape[:-3] or fa.shape[-1] != fb.shape[-1]:
        raise InputError(
            f"fa has shape {fa.shape} and fb {fb.shape}; accepted: equal but for height and width."
        )
    gram_a, gram_b = _gram(fa), _gram(fb)
    difference = jnp.sum(jnp.square(gram_a - gram_b), axis=(-2, -1))
    return difference / (jnp.sum(jnp.square(gram_b), axis=(-2, -1)) + EPS)


def _gram(features: jax.Array) -> jax.Array:
    cells = _cells(features)
    product = jnp.einsum("...pc,...pd->...cd", cells, cells, precision="highest")
    return product / cells.shape[-2]


def _cells(features: jax.Array) -> jax.Array:
    """[..., h, w, c] -> [..., h w, c]."""
    return features.reshape(*features.shape[:-3], -1, features.shape[-1])


def _check_images(a: jax.Array, b: jax.Array, *, smallest: int = 1) -> None:
    if a.ndim < 3 or a.shape != b.shape:
        raise InputError(
            f"a has shape {a.shape} and b {b.shape}; accepted: [..., h, w, c], equal for both."
        )
    if min(a.shape[-3:-1]) < smallest:
        raise InputError(
            f"images are {a.shape[-3]} x {a.shape[-2]}; accepted: at least {smallest} on each side."
        )


def _check_maps(fa: jax.Array, fb: jax.Array) -> None:
    if fa.ndim < 3 or fb.ndim < 3:
        raise InputError(f"fa has shape {fa.shape} and fb {fb.shape}; accepted: [..., h, w, c].")


def blockiness(image: jax.Array, period: tuple[float, float]) -> jax.Array:
    """How much stronger steps between neighbouring pixels are across cell borders than inside.

    The mean absolute difference of two pixels that a border lies between, over that of all other
    neighbours; the mean of both directions. Borders are where a grid of cells has them, at the
    nearest whole pixel, and those of the image do not count. No reference is needed.

    Args:
      image: [..., h, w, c] float32.
      period: (height, width) of a cell in pixels, >= 2 and smaller than the image.
    Returns:
      [...] >= 0; about 1 for a picture that knows nothing of the cells, and for a constant one.
    Raises:
      InputError: no image, or cells that leave no border or nothing but borders.
    """
    if image.ndim < 3:
        raise InputError(f"image has shape {image.shape}; accepted: [..., h, w, c].")
    ratios = []
    for axis, side in ((-3, period[0]), (-2, period[1])):
        length = image.shape[axis]
        check_range("period", side, 2, length - 1)
        steps = jnp.abs(jnp.diff(image, axis=axis))
        others = tuple({-3, -2, -1} - {axis})
        along = jnp.mean(steps, axis=others)  # [..., length - 1], step k is before pixel k + 1
        borders = np.rint(np.arange(1, length / side) * side).astype(np.int64)
        is_border = np.isin(np.arange(1, length), borders)
        across, within = jnp.mean(along[..., is_border], -1), jnp.mean(along[..., ~is_border], -1)
        ratios.append((across + EPS) / (within + EPS))
    return (ratios[0] + ratios[1]) / 2
