"""Convolution, pooling, up-sampling and normalisation that every network here is built from.

Activations are [n, h, w, c] float32, kernels [kh, kw, in, out].
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

DIMS = ("NHWC", "HWIO", "NHWC")


def _conv_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMS)


def _kernel_grad_plain(x: jax.Array, g: jax.Array, kh: int, kw: int) -> jax.Array:
    shape = (kh, kw, x.shape[-1], g.shape[-1])
    kernel = jnp.zeros(shape, x.dtype)
    return jax.vjp(lambda k: _conv_plain(x, k), kernel)[1](g)[0]


def _kernel_grad_canonical(x: jax.Array, g: jax.Array, kh: int, kw: int) -> jax.Array:
    """The same as a convolution in the one layout XLA:CPU is fast in, transposed by hand.

    Autodiff's own layout is repaired by a pass that only sees the top level of a program; inside
    a loop body or a branch it falls to a naive loop. This form does not depend on that pass.
    """
    padding = [((size - 1) // 2, size // 2) for size in (kh, kw)]
    grad = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), padding, dimension_numbers=DIMS
    )
    return grad.transpose(1, 2, 0, 3)


@jax.custom_vjp
def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1, zero-padded cross-correlation that keeps the size, with a loop-safe gradient.

    XLA:CPU's own weight gradient is 80-120 x slower inside a loop body or a branch; the rule below
    is as fast there as outside. It is chosen when the program is lowered: other platforms keep
    XLA's rule.

    Args:
      x: [n, h, w, in] float32.
      kernel: [kh, kw, in, out] float32, odd kh and kw.
    Returns:
      [n, h, w, out] float32.
    """
    return _conv_plain(x, kernel)


def _conv_fwd(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv_plain(x, kernel), (x, kernel)


def _conv_bwd(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    kh, kw = kernel.shape[:2]
    grad_x = _conv_plain(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    grad_kernel = lax.platform_dependent(
        x,
        g,
        cpu=lambda x, g: _kernel_grad_canonical(x, g, kh, kw),
        default=lambda x, g: _kernel_grad_plain(x, g, kh, kw),
    )
    return grad_x, grad_kernel


conv.defvjp(_conv_fwd, _conv_bwd)


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
