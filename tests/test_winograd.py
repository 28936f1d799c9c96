"""Winograd's convolution against float64 loops over the definition and against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from oeft_jax.models import layers, winograd
from oeft_jax.products import PRECISIONS, precision

pytestmark = pytest.mark.usefixtures("full_compile")

SHAPES = [  # n, h, w, in, out: whole tiles, odd, tiny, oblong, batch, uneven channels
    (1, 4, 4, 1, 1),
    (1, 1, 1, 2, 3),
    (2, 5, 7, 3, 4),
    (3, 2, 9, 5, 1),
    (1, 8, 12, 4, 6),
    (2, 13, 6, 1, 7),
]


def draw(seed, n, h, w, channels, features):
    rng = np.random.default_rng(seed)
    shapes = (n, h, w, channels), (3, 3, channels, features), (n, h, w, features)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def convolve_by_definition(x, kernel):
    """y(r, s, o) = sum over i, j, c of x(r + i - 1, s + j - 1, c) k(i, j, c, o), in float64."""
    n, h, w, _ = x.shape
    y = np.zeros((n, h, w, kernel.shape[-1]))
    for row in range(h):
        for column in range(w):
            for i in range(3):
                for j in range(3):
                    r, s = row + i - 1, column + j - 1
                    if 0 <= r < h and 0 <= s < w:
                        y[:, row, column] += x[:, r, s].astype(np.float64) @ kernel[i, j]
    return y


@pytest.mark.parametrize("shape", SHAPES)
def test_convolve_is_the_definition(shape):
    x, kernel, _ = draw(0, *shape)
    expected = convolve_by_definition(x, kernel)
    found = winograd.convolve(jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(found, expected, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_gradient_is_that_of_the_definition(shape):
    """The definition is linear in the kernel: entry by entry, <g, conv(x, one tap)>."""
    x, kernel, g = draw(1, *shape)
    expected = np.zeros(kernel.shape)
    for place in np.ndindex(kernel.shape):
        tap = np.zeros(kernel.shape)
        tap[place] = 1
        expected[place] = np.sum(g * convolve_by_definition(x, tap))
    found = winograd.kernel_gradient(jnp.asarray(x), jnp.asarray(g))
    np.testing.assert_allclose(found, expected, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("side", "channels"), [(32, 512), (64, 256), (61, 96)])
def test_error_at_real_widths_is_at_most_2e_5_of_the_largest_value(side, channels):
    x, kernel, g = (jnp.asarray(a) for a in draw(2, 1, side, side, channels, channels))
    assert x.size * channels >= layers.MIN_PRODUCTS, "the size does not take this form"
    x64, kernel64, g64 = (np.asarray(a, np.float64) for a in (x, kernel, g))
    padded = np.pad(x64, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
    expected = sum(s @ k for s, k in zip(shifts, kernel64.reshape(9, channels, -1), strict=True))
    tolerance = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(winograd.convolve(x, kernel), expected, atol=tolerance)
    flat = g64.reshape(-1, channels)
    taps = np.stack([s.reshape(-1, channels).T @ flat for s in shifts]).reshape(kernel.shape)
    found = winograd.kernel_gradient(x, g)
    np.testing.assert_allclose(found, taps, atol=2e-5 * np.abs(taps).max())


@pytest.fixture
def always_winograd(monkeypatch):
    """Small shapes take the form that large ones take."""
    monkeypatch.setattr(layers, "MIN_PRODUCTS", 0)
    jax.clear_caches()


def draw_wide(seed, shape=(2, 6, 5)):
    """Channels that `conv` takes Winograd's form for."""
    return [jnp.asarray(a) for a in draw(seed, *shape, 64, 64)]


def primitives(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments))


def test_conv_takes_it_only_where_it_pays(always_winograd, monkeypatch):
    x, kernel, _ = draw_wide(0)
    assert "platform_index" in primitives(layers.conv, x, kernel)
    assert "platform_index" not in primitives(layers.conv, x[..., :8], kernel[:, :, :8])
    few = layers.MIN_CHANNELS - 1
    assert "platform_index" not in primitives(layers.conv, x[..., :few], kernel[:, :, :few])
    assert "platform_index" not in primitives(layers.conv, x, kernel[..., :few])
    assert "platform_index" not in primitives(layers.conv, x, kernel[1:2, 1:2])
    monkeypatch.setattr(layers, "MIN_PRODUCTS", 2**40)
    jax.clear_caches()  # of what was traced with the other number
    assert "platform_index" not in primitives(layers.conv, x, kernel)


def test_conv_and_its_gradients_are_xlas(always_winograd):
    x, kernel, g = draw_wide(3)

    def pulled(function):
        value, pull = jax.vjp(function, x, kernel)
        return value, *pull(g)

    ours = jax.jit(lambda: pulled(layers.conv))()
    xlas = pulled(lambda x, k: layers.conv_plain(x, k, (1, 1)))
    for one, other in zip(ours, xlas, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(other).max()))


def test_conv_gradient_is_the_finite_difference(always_winograd):
    x, kernel, _ = draw_wide(4, (1, 4, 4))
    check_grads(jax.jit(layers.conv), (x, kernel / 8), 1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_vmap_checkpoint_and_loop_give_the_same(always_winograd):
    x, kernel, _ = draw_wide(5, (3, 6, 5))

    def loss(kernel, x):
        return jnp.sum(layers.conv(x, kernel) ** 2)

    expected = [jax.grad(loss)(kernel, x[i : i + 1]) for i in range(3)]
    size = float(jnp.abs(jnp.stack(expected)).max())
    mapped = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(kernel, x[:, None])
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(kernel, x[:1])
    looped = jax.jit(lambda: jax.lax.map(lambda one: jax.grad(loss)(kernel, one), x[:, None]))()
    for i in range(3):
        np.testing.assert_allclose(mapped[i], expected[i], atol=2e-5 * size)
        np.testing.assert_allclose(looped[i], expected[i], atol=2e-5 * size)
    np.testing.assert_allclose(again, expected[0], atol=2e-5 * size)


def test_vmap_over_kernels(always_winograd):
    x, kernel, _ = draw_wide(6)
    kernels = jnp.stack([kernel, 2 * kernel])
    found = jax.jit(jax.vmap(layers.conv, (None, 0)))(x, kernels)
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-4, atol=1e-3)


def test_precision_bfloat16_rounds_the_factors_and_sums_in_float32(always_winograd):
    x, kernel, g = draw_wide(6)

    def pulled(name):
        with precision(name):  # part of what jit looks a program up by
            value, pull = jax.vjp(jax.jit(layers.conv), x, kernel)
            return value, *pull(g)

    usual, full, low = (pulled(name) for name in PRECISIONS)
    for one, two, three in zip(usual, full, low, strict=True):
        assert one.dtype == three.dtype == jnp.float32
        np.testing.assert_array_equal(one, two)
        error = jnp.abs(three - one)
        assert 1e-4 < jnp.max(error) / jnp.max(jnp.abs(one)) < 4e-2
        assert jnp.sqrt(jnp.mean(error**2) / jnp.mean(one**2)) < 2e-2
