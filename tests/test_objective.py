"""down() of Eq. 12; the objective itself is in test_inversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import inversion as oracle

from oeft_jax.objective import down

TOLERANCE = 1e-5  # float32 against float64, values of about 1


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bilinear_down_is_the_mean_of_the_central_two_by_two(factor):
    image = np.random.default_rng(0).normal(size=(3 * factor, 3 * factor, 3)).astype(np.float32)
    ours = down(jnp.asarray(image), 3, mode="bilinear")
    expected = oracle.central_mean(image, factor)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_area_down_is_the_mean_of_each_block(factor):
    image = np.random.default_rng(0).normal(size=(3 * factor, 3 * factor, 3)).astype(np.float32)
    ours = down(jnp.asarray(image), 3)
    np.testing.assert_allclose(ours, oracle.block_mean(image, factor), rtol=0, atol=TOLERANCE)


def test_down_by_an_uneven_factor_keeps_a_constant_and_a_smaller_image_is_left_alone():
    flat = down(jnp.full((16, 16, 3), 0.25), 6)
    assert flat.shape == (6, 6, 3)
    np.testing.assert_allclose(flat, 0.25, rtol=1e-6)
    image = jnp.ones((4, 4, 3))
    assert down(image, 8) is image


def test_bilinear_down_gives_three_quarters_of_the_pixels_no_gradient_and_area_all():
    def untouched(mode):
        grad = jax.grad(lambda x: jnp.sum(down(x, 4, mode=mode)))
        return float(jnp.mean(grad(jnp.ones((16, 16, 3))) == 0))

    assert untouched("bilinear") == 0.75
    assert untouched("area") == 0.0
