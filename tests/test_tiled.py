"""Tiled softmax: the dense form's numbers and gradients at any size, in little memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oeft_jax import tiled

pytestmark = pytest.mark.usefixtures("full_compile")

SIZES = [(1, 1, 4), (7, 5, 3), (16, 16, 8), (9, 33, 16), (40, 3, 16)]  # p, q, tile


def draw(p, q, *, n=2, c=6, d=3, dtype=np.float32, scale=3.0):
    rng = np.random.default_rng(p * 100 + q)
    shapes = ((n, p, c), (n, q, c), (n, q, d))
    source, target, values = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    return source * scale, target, values


def dense(source, target, values):
    """Plain NumPy loops in float64."""
    n, p, _ = source.shape
    mixed, log_sum = np.zeros((n, p, values.shape[2])), np.zeros((n, p))
    for i in range(n):
        for u in range(p):
            logits = [float(np.dot(source[i, u], target[i, v])) for v in range(target.shape[1])]
            top = max(logits)
            weights = [np.exp(x - top) for x in logits]
            log_sum[i, u] = top + np.log(sum(weights))
            for v, weight in enumerate(weights):
                mixed[i, u] += weight / sum(weights) * values[i, v]
    return mixed, log_sum


@pytest.mark.parametrize(("p", "q", "tile"), SIZES)
def test_mixed_values_and_log_sums_equal_loops(p, q, tile):
    arrays = draw(p, q)
    mixed, log_sum = jax.jit(tiled.attend, static_argnames="tile")(*arrays, tile=tile)
    expected = dense(*(np.float64(x) for x in arrays))
    np.testing.assert_allclose(mixed, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_sum, expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("p", "q", "tile"), SIZES)
def test_gradients_equal_those_of_the_dense_form(x64, p, q, tile):
    arrays = draw(p, q, dtype=np.float64)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, p, 3)), rng.normal(size=(2, p))

    def objective(form):
        def scalar(source, target, values):
            mixed, log_sum = form(source, target, values)
            return jnp.sum(mixed * a) + jnp.sum(jnp.sin(log_sum) * b)

        return jax.jit(jax.grad(scalar, argnums=(0, 1, 2)))

    def plain(source, target, values):
        logits = jnp.einsum("npc,nqc->npq", source, target)
        weights = jax.nn.softmax(logits, -1)
        return jnp.einsum("npq,nqd->npd", weights, values), jax.nn.logsumexp(logits, -1)

    ours = objective(lambda *x: tiled.attend(*x, tile=tile))(*arrays)
    for mine, theirs in zip(ours, objective(plain)(*arrays), strict=True):
        assert mine.dtype == jnp.float64
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_gradient_is_finite_where_logits_are_huge_or_all_the_same():
    for source, target, values in (draw(9, 11, scale=1e4), draw(9, 11, scale=0.0)):
        loss = lambda *x: sum(jnp.sum(part**2) for part in tiled.attend(*x, tile=4))  # noqa: E731
        for grad in jax.grad(loss, argnums=(0, 1, 2))(source, target, values):
            assert np.isfinite(grad).all()


def test_values_of_no_width_give_the_log_sum_alone():
    source, target, _ = draw(9, 11)
    mixed, log_sum = tiled.attend(source, target, np.zeros((2, 11, 0), np.float32), tile=4)
    assert mixed.shape == (2, 9, 0)
    logits = np.einsum("npc,nqc->npq", source, target)
    np.testing.assert_allclose(log_sum, jax.nn.logsumexp(logits, -1), rtol=1e-5)


def test_padding_takes_no_weight():
    source, target = -np.ones((1, 3, 2), np.float32), np.full((1, 5, 2), 1e3, np.float32)
    values = np.full((1, 5, 1), 7.0, np.float32)
    np.testing.assert_allclose(tiled.attend(source, target, values, tile=4)[0], 7.0, rtol=1e-6)


def test_batch_is_many_single_calls():
    arrays = draw(9, 11, n=3)
    together = tiled.attend(*arrays, tile=4)
    for i in range(3):
        alone = tiled.attend(*(x[i : i + 1] for x in arrays), tile=4)
        np.testing.assert_allclose(together[0][i], alone[0][0], rtol=1e-6)


def test_memory_grows_with_cells_not_with_their_square():
    def temporaries(cells):
        shapes = [jax.ShapeDtypeStruct((1, cells, 8), jnp.float32)] * 3
        loss = jax.grad(lambda *x: jnp.sum(tiled.attend(*x, tile=256)[0]), argnums=(0, 1, 2))
        compiled = jax.jit(loss).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(4096), temporaries(16384)
    assert large < 5 * small
    assert large < 16384**2 * 4 / 20  # a dense matrix is 1 GiB
