"""Products of all pairs of cells and their gradients, against NumPy loops and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from oeft_jax import products

SHAPES = [(1, 3, 4, 2), (2, 5, 3, 7), (1, 1, 1, 1), (2, 4, 6, 6)]  # n, p, q, channels


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def loops(terms, result):
    """A sum of products as float64 loops: "npc,nqc->npq" of arrays by name of their axes."""
    sizes = {}
    for names, array in terms:
        sizes.update(zip(names, array.shape, strict=True))
    order = [*result, *(axis for axis in sizes if axis not in result)]
    total = np.zeros([sizes[axis] for axis in result])
    for place in np.ndindex(*(sizes[axis] for axis in order)):
        at = dict(zip(order, place, strict=True))
        product = 1.0
        for names, array in terms:
            product *= float(array[tuple(at[axis] for axis in names)])
        total[tuple(at[axis] for axis in result)] += product
    return total


@pytest.mark.parametrize(("n", "p", "q", "c"), SHAPES)
def test_products_are_the_loops_over_cells(n, p, q, c):
    a, b, weights = draw(n, p, c), draw(n, q, c, seed=1), draw(n, p, q, seed=2)
    for found, terms, result in (
        (products.inner(a, b), [("npc", a), ("nqc", b)], "npq"),
        (products.mixed(weights, b), [("npq", weights), ("nqc", b)], "npc"),
        (products.gathered(weights, a), [("npq", weights), ("npc", a)], "nqc"),
        (products.moments(a), [("npc", a), ("npd", a)], "ncd"),
        (products.squares(a), [("npc", a), ("nqc", a)], "npq"),
    ):
        np.testing.assert_allclose(found, loops(terms, result), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "p", "q", "c"), SHAPES)
def test_gradients_are_the_finite_differences(n, p, q, c):
    a, b, weights = draw(n, p, c), draw(n, q, c, seed=1), draw(n, p, q, seed=2)
    for function, arguments in (
        (products.inner, (a, b)),
        (products.mixed, (weights, b)),
        (products.moments, (a,)),
        (products.squares, (a,)),
    ):
        check_grads(function, arguments, 1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_gradients_are_those_of_autodiff_under_jit_and_vmap():
    a, b = draw(3, 2, 5, 4), draw(3, 2, 6, 4, seed=1)
    g = draw(3, 2, 5, 6, seed=2)

    def plain(a, b):
        return jnp.einsum("npc,nqc->npq", a, b, precision="highest")

    def pulled(function):
        one = lambda a, b, g: jax.vjp(function, a, b)[1](g)  # noqa: E731
        return jax.jit(jax.vmap(one))(a, b, g)

    for ours, theirs in zip(pulled(products.inner), pulled(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_gradient_transposes_the_large_matrix():
    a, b = draw(1, 64, 4), draw(1, 64, 4, seed=1)

    def loss(a, b):
        return jnp.sum(products.inner(a, b) ** 2)

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(a, b))
    moved = [line for line in text.splitlines() if "transpose" in line]
    assert moved
    assert not any("64,64]" in line.split("=")[0] for line in moved)
