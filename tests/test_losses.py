"""Losses against loops in float64, their known values, and gradients by finite differences."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from oracles import correspondence as oracle

from oeft_jax import losses as ours

TOLERANCE = {"float32": 1e-4, "float64": 1e-5}  # relative; the oracle's cosines have no eps


info_nce = jax.jit(
    partial(ours.info_nce, tile=5),  # several tiles, and cells left over
    static_argnames=("temperature", "stop_gradient"),
)
contextual_loss = jax.jit(ours.contextual_loss, static_argnames=("bandwidth", "eps"))
gram_loss = jax.jit(lambda warped, target: ours.gram_loss(warped, ours.gram(target)))


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# InfoNCE (Eq. 7-8)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize(("n", "p", "c"), [(2, 4, 5), (3, 1, 8), (1, 9, 6)])
def test_info_nce_is_the_loops(n, p, c, temperature):
    query, keys = draw(0, n, p, c), draw(1, n, p, c)
    expected = oracle.info_nce(query, keys, temperature)
    for run in (info_nce, ours.info_nce) if n == 2 else (info_nce,):
        found = run(query, keys, temperature=temperature)
        assert found.shape == ()
        assert float(found) == pytest.approx(expected, rel=TOLERANCE["float32"], abs=1e-6)


@pytest.mark.parametrize(("n", "q", "positives"), [(2, 9, [8, 0, 3]), (1, 4, [2, 2, 1, 3, 0])])
def test_info_nce_of_sampled_queries_is_the_loops(n, q, positives):
    query, keys = draw(2, n, len(positives), 6), draw(3, n, q, 6)
    expected = oracle.info_nce(query, keys, 0.1, positives)
    for run in (info_nce, ours.info_nce) if n == 2 else (info_nce,):
        found = run(query, keys, temperature=0.1, positives=jnp.asarray(positives))
        assert float(found) == pytest.approx(expected, rel=TOLERANCE["float32"])


@pytest.mark.parametrize("keys", [1, 4, 17])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_info_nce_of_constant_features_is_the_log_of_the_number_of_keys(keys, value):
    cells = jnp.full((2, keys, 3), value)
    found = info_nce(cells, cells, temperature=0.07)
    assert float(found) == pytest.approx(math.log(keys), abs=1e-5)


def test_info_nce_is_small_for_matches_and_large_for_mismatches():
    cells = jnp.eye(6)[None]
    match = info_nce(cells, cells, temperature=0.07)
    mismatch = info_nce(cells, jnp.roll(cells, 1, axis=1), temperature=0.07)
    assert float(match) < 1e-4
    assert float(mismatch) == pytest.approx(1 / 0.07, rel=1e-3)


def test_info_nce_stops_the_gradient_of_the_keys_only_when_asked():
    query, keys = draw(4, 1, 4, 3), draw(5, 1, 4, 3)
    for stop in (False, True):
        gradient = jax.jit(
            jax.grad(
                lambda a, b, stop=stop: ours.info_nce(a, b, temperature=1.0, stop_gradient=stop),
                argnums=(0, 1),
            )
        )
        of_query, of_keys = gradient(query, keys)
        assert np.any(np.asarray(of_query) != 0)
        assert np.any(np.asarray(of_keys) != 0) != stop


@settings(derandomize=True, max_examples=15, deadline=None)
@given(seed=st.integers(0, 99))
def test_info_nce_is_unchanged_by_the_order_of_pairs_and_by_scale(seed):
    query, keys = draw(seed, 2, 6, 4), draw(seed + 1, 2, 6, 4)
    order = np.random.default_rng(seed).permutation(6)
    found = info_nce(3 * query[:, order], 2 * keys[:, order], temperature=0.5)
    expected = info_nce(query, keys, temperature=0.5)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(found) >= 0


# Gram loss (Eq. 9)


@pytest.mark.parametrize(("n", "h", "w", "c"), [(2, 3, 4, 5), (1, 1, 1, 3), (3, 5, 2, 1)])
def test_gram_and_its_relative_loss_are_the_loops(n, h, w, c):
    warped, target = draw(0, n, h, w, c), 2 * draw(1, n, h + 1, w, c)  # sizes may differ

    def plain(warped, target):
        return ours.gram(target), ours.gram_loss(warped, ours.gram(target))

    for run in (jax.jit(plain), plain) if n == 2 else (jax.jit(plain),):
        found_gram, found = run(warped, target)
        assert found_gram.shape == (n, c, c)
        np.testing.assert_allclose(found_gram, oracle.gram(target), rtol=1e-4, atol=1e-5)
        expected = oracle.gram_loss(warped, target)
        assert float(found) == pytest.approx(expected, rel=TOLERANCE["float32"])


def test_gram_loss_is_zero_for_itself_one_for_nothing_and_ignores_positions_and_scale():
    features = draw(2, 2, 3, 4, 5)
    assert float(gram_loss(features, features)) < 1e-12
    assert float(gram_loss(0 * features, features)) == pytest.approx(1, rel=1e-6)
    order = np.random.default_rng(0).permutation(12)
    moved = features.reshape(2, 12, 5)[:, order].reshape(features.shape)
    assert float(gram_loss(moved, features)) < 1e-10
    other = draw(3, 2, 3, 4, 5)
    found = gram_loss(1000 * other, 1000 * features)
    assert float(found) == pytest.approx(float(gram_loss(other, features)), rel=1e-5)


# Contextual loss (Eq. 10)


@pytest.mark.parametrize("bandwidth", [0.1, 0.5])
@pytest.mark.parametrize(("n", "q", "p", "c"), [(2, 4, 7, 5), (3, 6, 3, 8), (1, 9, 9, 6)])
def test_contextual_loss_is_the_loops(n, q, p, c, bandwidth):
    target, warped = draw(0, n, q, c) + 1, draw(1, n, p, c)
    expected = oracle.contextual_loss(target, warped, bandwidth)
    first = (n, bandwidth) == (2, 0.1)
    for run in (contextual_loss, ours.contextual_loss) if first else (contextual_loss,):
        found = run(target, warped, bandwidth=bandwidth)
        assert found.shape == ()
        assert float(found) == pytest.approx(expected, rel=TOLERANCE["float32"])


def test_contextual_loss_of_itself_is_zero_and_of_something_else_is_not():
    target = draw(2, 2, 12, 8)
    assert 0 <= float(contextual_loss(target, target)) < 1e-3
    assert float(contextual_loss(target, draw(3, 2, 12, 8))) > 0.3


def test_contextual_loss_takes_the_maximum_over_the_warped_side():
    target = np.concatenate([np.eye(4), -np.eye(4)])[None].astype(np.float32)  # mean 0
    more = np.concatenate([target, draw(0, 1, 5, 4)], axis=1)
    assert float(contextual_loss(target, more)) < 1e-3  # every target position is served
    assert float(contextual_loss(target, target[:, :2])) == pytest.approx(math.log(4), rel=0.01)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(seed=st.integers(0, 99))
def test_contextual_loss_is_unchanged_by_permutations_and_at_least_zero(seed):
    rng = np.random.default_rng(seed)
    target, warped = draw(seed, 2, 6, 4), draw(seed + 1, 2, 9, 4)
    expected = float(contextual_loss(target, warped))
    moved = target[:, rng.permutation(6)], warped[:, rng.permutation(9)]
    assert expected >= -1e-6
    assert float(contextual_loss(*moved)) == pytest.approx(expected, rel=1e-3)


def test_contextual_loss_of_a_permuted_copy_is_zero():
    target = draw(4, 2, 12, 8)
    warped = target[:, np.random.default_rng(0).permutation(12)]
    assert float(contextual_loss(target, warped)) < 1e-3


# Structure, cycle, anchor, pooling


@jax.jit
def structure_loss(warped, source):
    return ours.structure_loss(warped, ours.self_similarity(source))


@jax.jit
def local_structure_loss(warped, source):
    return ours.local_structure_loss(warped, ours.local_similarities(source))


def test_structure_loss_ignores_appearance_and_sees_a_moved_part():
    source = draw(0, 1, 16, 5)
    turned = np.linalg.qr(draw(1, 5, 5))[0].astype(np.float32)  # keeps every angle
    assert float(structure_loss(3 * source @ turned + 7, source)) < 1e-6
    moved = np.concatenate([source[:, 8:], source[:, :4], source[:, 4:8]], axis=1)
    assert float(structure_loss(moved, source)) > 0.01


def test_structure_loss_of_one_source_for_several_warps():
    warped, source = draw(0, 2, 9, 4), draw(1, 1, 9, 4)
    each = [float(structure_loss(one[None], source)) for one in warped]
    assert float(structure_loss(warped, source)) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_local_structure_loss_leaves_out_steps_as_wide_as_the_map(side):
    ours_, theirs = np.random.default_rng(0).random((2, 1, side, 5, 4)).astype(np.float32)
    found = float(local_structure_loss(ours_, theirs))
    assert found == 0 if side == 1 else found > 0


def test_local_structure_loss_sees_an_outline_that_moved_and_no_change_of_colour():
    source = np.zeros((1, 12, 12, 3), np.float32)
    source[:, :, 6:] = 1
    source += 0.1 * draw(2, 1, 12, 12, 3)
    turned = np.linalg.qr(draw(1, 3, 3))[0].astype(np.float32)
    same = float(local_structure_loss(3 * source @ turned + 7, source))
    moved = float(local_structure_loss(np.roll(source, 2, axis=2), source))
    assert same < 1e-6
    assert moved > 0.02


def test_cycle_loss_is_the_mean_absolute_difference():
    a, b = draw(0, 2, 3, 3, 3), draw(1, 2, 3, 3, 3)
    total = sum(abs(float(x) - float(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    assert float(ours.cycle_loss(a, b)) == pytest.approx(total / a.size, rel=1e-5)
    assert float(ours.cycle_loss(a, a)) == 0


def test_anchor_loss_is_the_relative_squared_drift_over_all_leaves():
    start = {"conv": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.ones(4)}}
    moved = {"conv": {"kernel": jnp.full((2, 3), 2.5), "bias": jnp.zeros(4)}}
    found = ours.anchor_loss(moved, start)
    assert found.shape == ()
    assert float(found) == pytest.approx((6 * 0.25 + 4) / (6 * 4 + 4), rel=1e-6)
    assert float(ours.anchor_loss(start, start)) == 0
    doubled = jax.tree.map(lambda x: 2 * x, start)
    assert float(ours.anchor_loss(doubled, start)) == pytest.approx(1, rel=1e-6)


def test_anchor_loss_of_different_trees_is_refused():
    with pytest.raises(ValueError, match="zip"):
        ours.anchor_loss({"a": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2)})


@pytest.mark.parametrize(
    ("side", "largest", "factor"), [(8, 2, 4), (8, 8, 1), (4, 9, 1), (6, 5, 2)]
)
def test_pooled_cells_are_block_means_of_a_side_within_the_limit(side, largest, factor):
    features = draw(0, 2, side, side, 3)
    found = ours.pooled_cells(features, largest)
    expected = [oracle.block_mean(x.astype(np.float64), factor).reshape(-1, 3) for x in features]
    assert found.shape[1] <= largest**2
    np.testing.assert_allclose(found, np.array(expected), atol=1e-6)


# Gradients


def two_cells(shape):
    return jnp.asarray(draw(6, *shape), jnp.float64), jnp.asarray(draw(7, *shape), jnp.float64)


LOSSES = {
    "info_nce": (lambda a, b: ours.info_nce(a, b, temperature=0.5), (2, 4, 3)),
    "info_nce_sampled": (
        lambda a, b: ours.info_nce(a[:, :2], b, temperature=0.5, positives=jnp.array([3, 1])),
        (1, 4, 3),
    ),
    "gram_loss": (lambda a, b: ours.gram_loss(a, ours.gram(b)), (2, 2, 3, 3)),
    "contextual_loss": (lambda a, b: ours.contextual_loss(a, b, bandwidth=0.5), (2, 4, 3)),
    "structure_loss": (structure_loss, (2, 6, 4)),
    "local_structure_loss": (local_structure_loss, (2, 5, 4, 3)),
    "cycle_loss": (ours.cycle_loss, (1, 2, 2, 3)),
    "anchor_loss": (lambda a, b: ours.anchor_loss({"w": a}, {"w": b}), (2, 3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradient_is_the_finite_difference(name, x64):
    function, shape = LOSSES[name]
    arguments = two_cells(shape)
    assert jax.eval_shape(function, *arguments).dtype == jnp.float64
    check_grads(jax.jit(function), arguments, 1, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_finite_on_constant_and_zero_features(name):
    function, shape = LOSSES[name]
    gradient = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))
    for a, b in [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (3.0, 1.0)]:
        value, grads = gradient(jnp.full(shape, a), jnp.full(shape, b))
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(g)) for g in grads)
    cells = jnp.asarray(draw(8, *shape))  # equal, but not constant: distances of zero
    value, grads = gradient(cells, cells)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in grads)


@pytest.mark.parametrize(
    "name", ["info_nce", "gram_loss", "contextual_loss", "structure_loss", "local_structure_loss"]
)
def test_loss_in_double_precision_is_the_oracle(name, x64):
    function, shape = LOSSES[name]
    a, b = two_cells(shape)
    expected = {
        "info_nce": lambda: oracle.info_nce(a, b, 0.5),
        "gram_loss": lambda: oracle.gram_loss(a, b),
        "contextual_loss": lambda: oracle.contextual_loss(a, b, 0.5),
        "structure_loss": lambda: oracle.structure_loss(a, b),
        "local_structure_loss": lambda: oracle.local_structure_loss(a, b),
    }[name]()
    found = function(a, b)
    assert found.dtype == jnp.float64
    assert float(found) == pytest.approx(expected, rel=TOLERANCE["float64"])


# Total (Eq. 11)


@pytest.fixture
def inputs(key):
    fields = dict.fromkeys(ours.LossInputs._fields, jnp.zeros(()))
    return ours.LossInputs(**fields | {"key": key, "warped": jnp.full((1, 2, 2, 3), 0.5)})


def test_total_is_the_weighted_sum_of_its_terms(inputs):
    losses = {
        "mean": (2.0, lambda x: jnp.mean(x.warped)),
        "cycle": (0.5, lambda x: ours.cycle_loss(x.warped, jnp.ones((1, 2, 2, 3)))),
    }
    value, terms = ours.total(losses, inputs)
    assert {name: float(term) for name, term in terms.items()} == {"mean": 1.0, "cycle": 0.25}
    assert float(value) == 1.25
    assert value.dtype == jnp.float32


def test_total_skips_losses_of_weight_zero_without_calling_them(inputs):
    def fails(_):
        raise AssertionError

    value, terms = ours.total({"off": (0.0, fails), "one": (1.0, lambda _: jnp.ones(()))}, inputs)
    assert list(terms) == ["one"]
    assert float(value) == 1


def test_total_of_no_losses_is_zero(inputs):
    value, terms = ours.total({}, inputs)
    assert float(value) == 0
    assert terms == {}
