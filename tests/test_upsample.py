"""Nearest x 2 and a 3 x 3 convolution by differences, against the convolution as it is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from oeft_jax.models.upsample import by_differences, conv_upsampled

pytestmark = pytest.mark.usefixtures("full_compile")

TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}  # of the largest value
SHAPES = [  # n, h, w, in, out
    (1, 1, 1, 1, 1),
    (2, 1, 5, 3, 2),
    (3, 4, 4, 8, 6),
    (1, 7, 3, 2, 5),
    (2, 8, 16, 64, 32),
]


def plain(x, kernel):
    """Pixels repeated, then lax.conv; nothing of ours."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arguments(shape, dtype=np.float32):
    """(x, kernel, cotangent)."""
    n, h, w, i, o = shape
    rng = np.random.default_rng(0)
    sizes = [(n, h, w, i), (3, 3, i, o), (n, 2 * h, 2 * w, o)]
    return [jnp.asarray(rng.normal(size=size), dtype) for size in sizes]


def assert_close(ours, theirs, dtype=np.float32, factor=1.0):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == dtype
    atol = factor * TOLERANCE[dtype] * float(jnp.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("form", [conv_upsampled, by_differences])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_convolution_of_the_repeated_pixels(shape, form):
    x, kernel, _ = arguments(shape)
    assert_close(jax.jit(form)(x, kernel), plain(x, kernel))


def gradients(f, x, kernel, g):
    return jax.jit(lambda x, kernel, g: jax.vjp(f, x, kernel)[1](g))(x, kernel, g)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_the_convolution(shape):
    x, kernel, g = arguments(shape)
    pairs = zip(
        gradients(conv_upsampled, x, kernel, g), gradients(plain, x, kernel, g), strict=True
    )
    for ours, theirs in pairs:
        assert_close(ours, theirs, factor=3)


def test_it_is_the_same_mathematics_in_float64():
    with jax.enable_x64(True):
        x, kernel, g = arguments((2, 3, 5, 3, 2), np.float64)
        ours, theirs = (
            (jax.jit(f)(x, kernel), *gradients(f, x, kernel, g)) for f in (conv_upsampled, plain)
        )
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other, np.float64, factor=3)


def test_under_vmap_jit_grad_and_checkpoint():
    x, kernel, _ = arguments((6, 3, 4, 3, 2))
    pairs = x.reshape(2, 3, 3, 4, 3)
    ours = jax.jit(jax.vmap(conv_upsampled, in_axes=(0, None)))(pairs, kernel)
    assert_close(ours.reshape(6, 6, 8, 2), plain(x, kernel))

    def total(x, f):
        return jnp.sum(jax.checkpoint(f)(x, kernel) ** 2)

    grad = jax.jit(jax.grad(total), static_argnums=1)
    assert_close(grad(x, conv_upsampled), grad(x, plain), factor=3)


def test_multiplies_a_quarter_as_often():
    x, kernel, _ = arguments((1, 32, 32, 64, 64))

    def work(f):
        return jax.jit(f).lower(x, kernel).compile().cost_analysis()["flops"]

    assert work(conv_upsampled) < 0.32 * work(plain)
