"""3 x 3 convolution with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3).

A 4 x 4 tile of the output is a polynomial product that six points determine along each axis
(arXiv 1509.09308): the input tile (6 x 6) and the kernel are evaluated at the points, multiplied
there as 36 matrix products over channels, and interpolated. The points are 0, +-1/sqrt 2, +-sqrt 2
and infinity, whose rounding error is a quarter of that of the usual 0, +-1, +-2 and infinity
(arXiv 1803.10986 is about the choice). The gradient with respect to the kernel is the transposed
program: both maps evaluated at the points, multiplied over tiles, mapped back.

For CPUs. Activations are [n, h, w, c] float32, kernels [3, 3, in, out].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 4  # outputs of a tile along one axis
POINTS = 6
_P, _Q = 0.5**0.5, 2.0**0.5
# A kernel's three taps evaluated at the points, over the interpolation's denominators.
_KERNEL = np.array(
    [
        [1, 0, 0],
        [-2 / 3, -2 / 3 * _P, -1 / 3],
        [-2 / 3, 2 / 3 * _P, -1 / 3],
        [1 / 6, 1 / 6 * _Q, 1 / 3],
        [1 / 6, -1 / 6 * _Q, 1 / 3],
        [0, 0, 1],
    ]
)
# Products at the points to the four outputs.
_INTERPOLATION = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, _P, -_P, _Q, -_Q, 0],
        [0, 1 / 2, 1 / 2, 2, 2, 0],
        [0, _P / 2, -_P / 2, 2 * _Q, -2 * _Q, 1],
    ]
)


def _both_axes(matrix: np.ndarray) -> np.ndarray:
    return np.kron(matrix, matrix).astype(np.float32)


_KERNEL_2D, _INTERPOLATION_2D = _both_axes(_KERNEL), _both_axes(_INTERPOLATION)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Zero-padded cross-correlation that keeps the size. -> [n, h, w, out]."""
    n, h, w, channels = x.shape
    at_points = jnp.asarray(_KERNEL_2D) @ kernel.reshape(9, -1)
    at_points = at_points.reshape(POINTS**2, channels, -1)
    products = _products("btc,bco->bto", _input_at_points(x), at_points)
    return _interpolated(products, n, h, w)


def kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient of <g, convolve(x, kernel)> with respect to the kernel. -> [3, 3, in, out]."""
    products = _products("btc,bto->bco", _input_at_points(x), _output_at_points(g))
    gradient = jnp.asarray(_KERNEL_2D.T) @ products.reshape(POINTS**2, -1)
    return gradient.reshape(3, 3, x.shape[-1], g.shape[-1])


def _products(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The products at the points, summed in float32: of bfloat16 numbers where JAX's setting says so.

    XLA takes no notice of `jax_default_matmul_precision` on CPUs. Those with AMX or AVX-512 BF16
    multiply bfloat16 numbers faster.
    """
    if jax.config.values["jax_default_matmul_precision"] != "bfloat16":
        return jnp.einsum(equation, a, b)
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _tiles(size: int) -> int:
    return -(-size // TILE)


def _input_at_points(x: jax.Array) -> jax.Array:
    """Every 6 x 6 tile of the padded input, evaluated. -> [36, n th tw, c]."""
    n, h, w, c = x.shape
    th, tw = _tiles(h), _tiles(w)
    height, width = TILE * th + 2, TILE * tw + 2
    x = jnp.pad(x, ((0, 0), (1, height - h - 1), (1, width - w - 1), (0, 0)))
    rows = [x[:, i : i + TILE * (th - 1) + 1 : TILE] for i in range(POINTS)]
    x = lax.optimization_barrier(jnp.stack(_evaluate_input(rows)))  # two passes, not one of 36
    columns = [x[:, :, :, j : j + TILE * (tw - 1) + 1 : TILE] for j in range(POINTS)]
    return jnp.stack(_evaluate_input(columns), 1).reshape(POINTS**2, n * th * tw, c)


def _output_at_points(g: jax.Array) -> jax.Array:
    """Every 4 x 4 tile of an output's gradient, back at the points. -> [36, n th tw, c]."""
    n, h, w, c = g.shape
    th, tw = _tiles(h), _tiles(w)
    g = jnp.pad(g, ((0, 0), (0, TILE * th - h), (0, TILE * tw - w), (0, 0)))
    tiles = g.reshape(n, th, TILE, tw, TILE, c).transpose(2, 4, 0, 1, 3, 5)
    return jnp.einsum("ap,atc->ptc", _INTERPOLATION_2D, tiles.reshape(TILE**2, n * th * tw, c))


def _interpolated(products: jax.Array, n: int, h: int, w: int) -> jax.Array:
    """[36, n th tw, c] -> [n, h, w, c]."""
    th, tw, c = _tiles(h), _tiles(w), products.shape[-1]
    y = jnp.einsum("ap,ptc->atc", _INTERPOLATION_2D, products)
    y = y.reshape(TILE, TILE, n, th, tw, c).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(n, TILE * th, TILE * tw, c)[:, :h, :w]


def _evaluate_input(x: Sequence[jax.Array]) -> list[jax.Array]:
    """Six neighbours -> their values at the six points (B^T)."""
    even, odd = x[4] - 2 * x[2], _P * (x[3] - 2 * x[1])
    far_even, far_odd = x[4] - 0.5 * x[2], _Q * (x[3] - 0.5 * x[1])
    return [
        x[0] - 2.5 * x[2] + x[4],
        even + odd,
        even - odd,
        far_even + far_odd,
        far_even - far_odd,
        x[1] - 2.5 * x[3] + x[5],
    ]
