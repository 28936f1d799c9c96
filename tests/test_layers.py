"""Building blocks against lax, flax and NumPy; the hand-written gradient of `conv` above all."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from oeft_jax.models import layers

pytestmark = pytest.mark.usefixtures("full_compile")

TOLERANCE = {"float32": 1e-5}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)


def loss(convolve):
    """A scalar whose gradient depends on x, kernel and every output."""
    return lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel)))


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, atol=TOLERANCE["float32"] * scale)


# conv


def test_convolutions_of_one_shape_are_lowered_once():
    """Forward and both gradients: a second layer adds functions only where its shape is another."""

    def functions(*sides):
        pictures = [draw(0, 1, side, 8, 4) for side in sides]
        kernels = [draw(1, 3, 3, 4, 4) for _ in sides]

        def total(pictures, kernels):
            return sum(loss(layers.conv)(*pair) for pair in zip(pictures, kernels, strict=True))

        text = jax.jit(jax.grad(total, argnums=(0, 1))).lower(pictures, kernels).as_text()
        return text.count("private @_forward"), text.count("private @_kernel_grad")

    assert min(functions(8)) > 0
    assert functions(8, 8, 8) == functions(8)
    assert functions(8, 7) == tuple(2 * count for count in functions(8))


@pytest.mark.parametrize(
    ("n", "h", "w", "inputs", "outputs", "kh", "kw"),
    [
        (2, 5, 7, 3, 4, 3, 3),
        (1, 1, 1, 1, 1, 3, 3),
        (3, 4, 2, 2, 5, 3, 3),
        (2, 1, 6, 3, 2, 3, 3),
        (2, 5, 4, 3, 2, 1, 1),
        (1, 6, 3, 2, 3, 5, 3),
    ],
)
def test_conv_and_its_gradients_are_those_of_lax(n, h, w, inputs, outputs, kh, kw):
    x, kernel = draw(0, n, h, w, inputs), draw(1, kh, kw, inputs, outputs)

    def all_of(convolve):
        gradients = jax.grad(loss(convolve), argnums=(0, 1))
        return lambda x, k: (convolve(x, k), *gradients(x, k))

    found = jax.jit(all_of(layers.conv))(x, kernel)
    assert found[0].shape == (n, h, w, outputs)
    assert_same(found, jax.jit(all_of(reference))(x, kernel))


def test_conv_gradients_outside_jit_are_those_of_lax():
    x, kernel = draw(0, 2, 3, 4, 2), draw(1, 3, 3, 2, 3)
    found = jax.grad(loss(layers.conv), argnums=(0, 1))(x, kernel)
    assert_same(found, jax.grad(loss(reference), argnums=(0, 1))(x, kernel))


@pytest.mark.parametrize("size", [1, 3])
def test_both_kernel_gradients_agree_whatever_the_platform(size):
    x, g = draw(0, 2, 5, 4, 3), draw(1, 2, 5, 4, 2)
    canonical = jax.jit(lambda x, g: layers._kernel_grad_canonical(x, g, size, size))(x, g)
    assert_same(canonical, jax.jit(lambda x, g: layers._kernel_grad_plain(x, g, size, size))(x, g))


def test_conv_gradients_under_vmap_are_those_of_lax():
    x, kernels = draw(0, 2, 1, 4, 5, 2), draw(1, 2, 3, 3, 2, 3)
    found = jax.jit(jax.vmap(jax.grad(loss(layers.conv), argnums=(0, 1))))(x, kernels)
    assert found[1].shape == kernels.shape
    assert_same(found, jax.jit(jax.vmap(jax.grad(loss(reference), argnums=(0, 1))))(x, kernels))


def test_conv_gradients_under_checkpoint_are_those_of_lax():
    x, kernel = draw(0, 2, 4, 5, 3), draw(1, 3, 3, 3, 3)

    def twice(convolve):
        block = jax.checkpoint(lambda x, k: jnp.tanh(convolve(x, k)))
        return jax.jit(jax.grad(lambda x, k: jnp.sum(block(block(x, k), k) ** 2), argnums=(0, 1)))

    assert_same(twice(layers.conv)(x, kernel), twice(reference)(x, kernel))


def test_training_inside_a_loop_body_equals_a_loop_of_lax():
    x, kernel = draw(0, 2, 4, 5, 2), draw(1, 3, 3, 2, 3)
    step = jax.grad(loss(layers.conv), argnums=1)
    found = jax.jit(lambda k: lax.fori_loop(0, 5, lambda _, k: k - 0.01 * step(x, k), k))(kernel)
    plain = jax.jit(jax.grad(loss(reference), argnums=1))
    expected = kernel
    for _ in range(5):
        expected = expected - 0.01 * plain(x, expected)
    assert np.abs(expected - kernel).max() > 0.05
    assert_same(found, expected)


def test_conv_gradient_is_the_finite_difference(x64):
    x, kernel = jnp.asarray(draw(0, 1, 2, 3, 2), jnp.float64), jnp.asarray(draw(1, 3, 3, 2, 2))
    assert layers.conv(x, kernel.astype(jnp.float64)).dtype == jnp.float64
    function = jax.jit(lambda x, k: jnp.sin(layers.conv(x, k)))
    check_grads(function, (x, kernel.astype(jnp.float64)), 1, modes=["rev"])


def test_conv_layer_is_flax_conv_with_the_same_parameters(key):
    x = draw(0, 2, 5, 4, 3)
    ours, theirs = layers.Conv(6), nn.Conv(6, (3, 3))
    params = ours.init(key, x)
    assert params["params"]["kernel"].shape == (3, 3, 3, 6)
    params["params"]["bias"] = jnp.arange(6.0)
    assert_same(jax.jit(ours.apply)(params, x), jax.jit(theirs.apply)(params, x))


# Pooling


@pytest.mark.parametrize(("h", "w"), [(4, 6), (5, 7), (2, 3)])
def test_max_pool_and_its_gradient_are_those_of_flax(h, w):
    x = draw(0, 2, h, w, 3)

    def both(pool):
        return jax.jit(lambda x: (pool(x), jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)))

    found = both(layers.max_pool)(x)
    assert found[0].shape == (2, h // 2, w // 2, 3)
    assert_same(found, both(lambda x: nn.max_pool(x, (2, 2), (2, 2)))(x))


def test_max_pool_shares_the_gradient_of_ties():
    gradient = jax.grad(lambda x: jnp.sum(layers.max_pool(x)))(jnp.zeros((1, 4, 2, 1)))
    np.testing.assert_allclose(gradient, 0.25)


@pytest.mark.parametrize(("h", "w", "factor"), [(6, 4, 2), (7, 5, 3), (4, 4, 4), (3, 5, 1)])
def test_average_pool_is_the_mean_over_blocks(h, w, factor):
    x = draw(1, 2, h, w, 3)
    found = layers.average_pool(x, factor)
    assert found.shape == (2, h // factor, w // factor, 3)
    for i in range(h // factor):
        for j in range(w // factor):
            rows, columns = slice(i * factor, (i + 1) * factor), slice(j * factor, (j + 1) * factor)
            expected = x[:, rows, columns].mean(axis=(1, 2))
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-6)


# Up-sampling, normalisation, blur


def test_upsample_nearest_repeats_pixels():
    x = draw(2, 2, 3, 2, 4)
    np.testing.assert_array_equal(layers.upsample_nearest(x), x.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4, 6)])
def test_pixel_norm_divides_by_the_root_mean_square(shape):
    x = 3 * draw(3, *shape)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(layers.pixel_norm(x), expected, rtol=1e-5)


def test_pixel_norm_of_zero_is_zero_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(layers.pixel_norm(x)))(jnp.zeros((1, 4)))
    assert float(value) == 0
    assert np.all(np.isfinite(gradient))


def test_blur_is_the_binomial_filter_with_zeros_outside():
    x = draw(4, 2, 4, 5, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros_like(x)
    for i, a in enumerate((1, 2, 1)):
        for j, b in enumerate((1, 2, 1)):
            expected += a * b / 16 * padded[:, i : i + 4, j : j + 5]
    np.testing.assert_allclose(layers.blur(x), expected, atol=1e-6)
