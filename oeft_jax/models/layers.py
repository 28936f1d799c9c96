"""Convolution, pooling, up-sampling and normalisation that every network here is built from.

Activations are [n, h, w, c] float32, kernels [kh, kw, in, out].
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax.models import winograd

DIMS = ("NHWC", "HWIO", "NHWC")
MIN_PRODUCTS = 2**24  # pixels x channels in x channels out of a convolution worth Winograd's form
MIN_CHANNELS = 64  # in and out: with fewer, evaluating at the points costs more than is saved
MIN_CHANNELS_GRAD = 8  # in: XLA's own gradient in the kernel is slow enough for it to pay sooner


def conv_plain(x: jax.Array, kernel: jax.Array, pads: tuple[int, int]) -> jax.Array:
    """Stride-1 cross-correlation with `pads` zeros on each side, and its gradient, left to XLA."""
    padding = [(pad, pad) for pad in pads]
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=DIMS)


def _pads(x: jax.Array, g: jax.Array, kh: int, kw: int) -> tuple[int, int]:
    """Zeros on each side that made a result of g's size from x."""
    return (g.shape[1] - x.shape[1] + kh - 1) // 2, (g.shape[2] - x.shape[2] + kw - 1) // 2


def _kernel_grad_plain(x: jax.Array, g: jax.Array, kh: int, kw: int) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((kh, kw, x.shape[-1], g.shape[-1]), x.dtype)
    pads = _pads(x, g, kh, kw)
    return jax.linear_transpose(lambda k: conv_plain(x, k, pads), kernel)(g)[0]


def _kernel_grad_canonical(x: jax.Array, g: jax.Array, kh: int, kw: int) -> jax.Array:
    """The same as a convolution in the one layout XLA:CPU is fast in, transposed by hand.

    Autodiff's own layout is repaired by a pass that only sees the top level of a program; inside
    a loop body or a branch it falls to a naive loop. This form does not depend on that pass.
    """
    pads = _pads(x, g, kh, kw)
    grad = conv_plain(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), pads)
    return grad.transpose(1, 2, 0, 3)


@partial(jax.jit, static_argnums=2)  # layers of one shape are traced and lowered once
def _forward(x: jax.Array, kernel: jax.Array, pads: tuple[int, int]) -> jax.Array:
    """Winograd's form on a CPU where it measures faster, XLA's own everywhere else."""
    channels, features = kernel.shape[2:]
    plain = partial(conv_plain, pads=pads)
    same = (*kernel.shape[:2], *pads) == (3, 3, 1, 1)
    if not same or min(channels, features) < MIN_CHANNELS or not _is_long(x, features):
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=plain)


def _kernel_grad_cpu(x: jax.Array, g: jax.Array, kh: int, kw: int) -> jax.Array:
    same = (kh, kw, *_pads(x, g, kh, kw)) == (3, 3, 1, 1)
    if not same or x.shape[-1] < MIN_CHANNELS_GRAD or not _is_long(x, g.shape[-1]):
        return _kernel_grad_canonical(x, g, kh, kw)
    return winograd.kernel_gradient(x, g)


def _is_long(x: jax.Array, features: int) -> bool:
    """Whether a 3 x 3 convolution runs long enough to repay Winograd's longer compilation."""
    return x.size * features >= MIN_PRODUCTS


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, pads: tuple[int, int]) -> jax.Array:
    """Stride-1 cross-correlation with `pads` zeros on each side, fast and loop-safe on CPUs.

    XLA:CPU's own weight gradient is 3-9 x slower than the one here, and 80-120 x slower inside a
    loop body or a branch. The rule is chosen when the program is lowered: other platforms keep
    XLA's.
    """
    return _forward(x, kernel, pads)


def _conv_fwd(
    x: jax.Array, kernel: jax.Array, pads: tuple[int, int]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _forward(x, kernel, pads), (x, kernel)


def _conv_bwd(
    pads: tuple[int, int], residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kh, kw = kernel.shape[:2]
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    grad_x = _forward(g, turned, (kh - 1 - pads[0], kw - 1 - pads[1]))
    return grad_x, _kernel_grad(x, g, kh, kw)


@partial(jax.jit, static_argnums=(2, 3))
def _kernel_grad(x: jax.Array, g: jax.Array, kh: int, kw: int) -> jax.Array:
    return lax.platform_dependent(
        x,
        g,
        cpu=partial(_kernel_grad_cpu, kh=kh, kw=kw),
        default=partial(_kernel_grad_plain, kh=kh, kw=kw),
    )


_conv.defvjp(_conv_fwd, _conv_bwd)


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1, zero-padded cross-correlation that keeps the size, with a loop-safe gradient.

    Args:
      x: [n, h, w, in] float32.
      kernel: [kh, kw, in, out] float32, odd kh and kw.
    Returns:
      [n, h, w, out] float32.
    """
    return _conv(x, kernel, (kernel.shape[0] // 2, kernel.shape[1] // 2))


def conv_full(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlation wherever kernel and map overlap. -> [n, h + kh - 1, w + kw - 1, out]."""
    return _conv(x, kernel, (kernel.shape[0] - 1, kernel.shape[1] - 1))


class Conv(nn.Module):
    """3 x 3 (or other odd) convolution with bias, through `conv`."""

    features: int
    kernel_size: int = 3
    kernel_init: Callable[..., jax.Array] = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.kernel_size
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv(x, kernel) + bias[None, None, None, :]


def max_pool(x: jax.Array) -> jax.Array:
    """2 x 2 max pooling, stride 2, odd edges dropped, as strided slices.

    The gradient of `lax.reduce_window` is 30 x slower on CPUs; ties split the gradient evenly here.
    """
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :h, :w]
    top = jnp.maximum(x[:, 0::2, 0::2], x[:, 0::2, 1::2])
    return jnp.maximum(top, jnp.maximum(x[:, 1::2, 0::2], x[:, 1::2, 1::2]))


def average_pool(x: jax.Array, factor: int) -> jax.Array:
    """Mean over factor x factor blocks; odd edges are dropped. [n, h, w, c] -> [n, h/f, w/f, c]."""
    n, h, w, c = x.shape
    h, w = h // factor, w // factor
    blocks = x[:, : h * factor, : w * factor].reshape(n, h, factor, w, factor, c)
    return blocks.mean(axis=(2, 4))


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Doubles height and width by repeating pixels."""
    n, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
    return x.reshape(n, 2 * h, 2 * w, c)


def pixel_norm(x: jax.Array, *, eps: float = 1e-8) -> jax.Array:
    """Divides by the root mean square over the last axis (PGGAN, StyleGAN mapping)."""
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def blur(x: jax.Array) -> jax.Array:
    """Depthwise [1, 2, 1] x [1, 2, 1] / 16 with zero padding, as shifts and sums (StyleGAN)."""
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    x = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    columns = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return (columns[:, :, :-2] + 2 * columns[:, :, 1:-1] + columns[:, :, 2:]) / 4


def conv_up(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """StyleGAN2's up-convolution: zeros between pixels, 3 x 3 kernel, [1, 3, 3, 1] filter.

    A kernel over a map with zeros between its pixels is four kernels of 2 x 2, 2 x 1, 1 x 2 and
    1 x 1 taps over the map itself, one for each parity of row and column. They take a quarter of
    the multiplications, and every gradient is that of a plain convolution.

    Args:
      x: [n, h, w, in].
      kernel: [3, 3, in, out], for cross-correlation with the map of zeros between pixels.
    Returns:
      [n, 2h, 2w, out].
    """
    even, odd = slice(0, 3, 2), slice(1, 2)  # taps that meet pixels in even and in odd rows
    even_columns = _filter_pairs(
        conv_full(x, kernel[even, even]), conv_full(x, kernel[odd, even]), 1
    )
    odd_columns = _filter_pairs(conv_full(x, kernel[even, odd]), conv_full(x, kernel[odd, odd]), 1)
    return _filter_pairs(even_columns, odd_columns, 2)


def upsample_filtered(x: jax.Array) -> jax.Array:
    """Doubles height and width with the [1, 3, 3, 1] filter (the RGB skips of StyleGAN2)."""
    for axis in (1, 2):
        before, after = _neighbours(x, axis)
        x = _interleave((before + 3 * x) / 4, (3 * x + after) / 4, axis)
    return x


def _filter_pairs(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    """[1, 3, 3, 1] / 4 along an axis of 2h + 1, given as its h + 1 even and h odd places. -> 2h."""
    size = odd.shape[axis]
    first, second = lax.slice_in_dim(even, 0, size, axis=axis), _last(even, size, axis)
    before, after = _neighbours(odd, axis)
    return _interleave(
        (before + 3 * first + 3 * odd + second) / 4,
        (first + 3 * odd + 3 * second + after) / 4,
        axis,
    )


def _neighbours(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The place before and the place after each place of an axis, zero beyond its ends."""
    size = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if place == axis else (0, 0) for place in range(x.ndim)])
    return lax.slice_in_dim(padded, 0, size, axis=axis), _last(padded, size, axis)


def _last(x: jax.Array, size: int, axis: int) -> jax.Array:
    return lax.slice_in_dim(x, x.shape[axis] - size, x.shape[axis], axis=axis)


def _interleave(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    """Even places from one array and odd places from another, along an axis."""
    shape = [*even.shape]
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)
