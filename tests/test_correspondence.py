"""Stage 1's state and step: what they keep, lower, repeat and refuse."""

import dataclasses
import math
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oeft_jax import checkpoint
from oeft_jax import correspondence as ours
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.correlation import added, scaled
from oeft_jax.layout import layout_of, places, pull
from oeft_jax.loss_terms import default_losses
from oeft_jax.models.backbone import backbone
from oeft_jax.tuning import make_init

VGG = backbone("vgg", {"depths": [1, 1, 1], "widths": [4, 4, 4]})
RESNET = backbone("resnet", {"stage_sizes": [1, 1, 1, 1], "width": 4})
SIZE, GRID = 32, 8
SMALL = {
    "image_size": SIZE,
    "grid": GRID,
    "taps": ("relu2_1", "relu3_1"),
    "gram_taps": ("relu1_1", "relu2_1"),
    "contextual_taps": ("relu2_1", "relu3_1"),
    "num_queries": 16,
    "augment": False,
    "learning_rate": 1e-3,
    "schedule": "constant",
}


def config(**changes):
    return CorrespondenceConfig(**{**SMALL, **changes})


def images():
    """Two smooth pictures, so that there is something to match."""
    waves = np.random.default_rng(0).uniform(0.5, 3, size=(2, 3, 2))
    grid = np.stack(np.mgrid[:SIZE, :SIZE] / SIZE, -1)
    phases = 2 * np.pi * np.einsum("hwd,ncd->nhwc", grid, waves)
    return jnp.asarray(0.5 + 0.4 * np.sin(phases), jnp.float32)[:, None]


@cache
def weights(network):
    taps = SMALL["taps"] if network is VGG else ("layer1", "layer2")
    params = jax.jit(lambda key: network.init(key, taps))(jax.random.key(7))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)  # in an x64 test too


@cache
def default_step(settings):
    losses = default_losses(settings)
    return ours.make_step(VGG, settings, losses, ours.default_optimizer(settings))


def begin(settings, network=VGG):
    optimizer = ours.default_optimizer(settings)
    return make_init(network, settings, optimizer)(weights(network), *images())


def make_step(settings, losses, network=VGG):
    return ours.make_step(network, settings, losses, ours.default_optimizer(settings))


def drift(x):
    """A loss that is cheap to compile: only the weights are looked at."""
    return sum(jnp.sum((a - 1) ** 2) for a in jax.tree.leaves(x.params))


def same_bits(a, b):
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# State


@pytest.mark.parametrize("shared", [False, True])
def test_step_keeps_the_tree_and_takes_the_state(key, shared):
    settings = config(shared_weights=shared)
    state, pair = begin(settings)
    assert set(state.params) == ({"shared"} if shared else {"source", "target"})
    before = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    old = jax.tree.leaves(state.params)
    step = make_step(settings, {"drift": (1.0, drift)})
    state, info = step(key, state, pair)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, state)
    assert int(state.step) == 1
    assert bool(info.finite)
    assert all(leaf.is_deleted() for leaf in old)  # donated
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(pair))


def test_one_trace_serves_all_steps(key):
    traced = []

    def counted(x):
        traced.append(1)
        return drift(x)

    settings = config()
    state, pair = begin(settings)
    step = make_step(settings, {"counted": (1.0, counted)})
    state = ours.run(key, state, pair, step=step, num_steps=6)
    ours.run(key, state, pair, step=step, num_steps=9)
    assert len(traced) == 1


def test_weights_begin_apart_and_equal():
    settings = config()
    state, pair = begin(settings)
    assert ours.source_params(state.params) is not ours.target_params(state.params)
    same_bits(ours.source_params(state.params), ours.target_params(state.params))
    same_bits(state.params, pair.start)
    state, _ = begin(config(shared_weights=True))
    assert ours.source_params(state.params) is ours.target_params(state.params)


# Steps


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_forty_steps_lower_the_loss(key, shared):
    # At alpha 100 the warp is nearly an argmax: a network this small then needs tiny steps.
    settings = config(shared_weights=shared, num_queries=0, alpha=10.0, learning_rate=3e-4)
    state, pair = begin(settings)
    rows = []
    end = ours.run(
        key,
        state,
        pair,
        step=default_step(settings),
        num_steps=40,
        on_step=lambda number, state, info: rows.append(float(info.loss)),
    )
    assert len(rows) == 40
    assert np.isfinite(rows).all()
    assert rows[-1] < 0.97 * rows[0]
    assert np.mean(rows[-5:]) < np.mean(rows[:5])
    if not shared:
        moved = [
            np.abs(a - b).max()
            for a, b in zip(
                jax.tree.leaves(end.params["source"]),
                jax.tree.leaves(end.params["target"]),
                strict=True,
            )
        ]
        assert max(moved) > 1e-4


@pytest.mark.parametrize("augment", [False, True])
def test_terms_sum_to_the_loss(key, augment):
    settings = config(
        augment=augment,
        lambda_structure=3.0,
        lambda_local_structure=2.0,
        lambda_cycle=0.5,
        lambda_anchor=2.0,
    )
    losses = default_losses(settings)
    _, pair = begin(settings)
    moved = jax.tree.map(lambda leaf: leaf * 1.01, pair.start)
    loss, (terms, _) = jax.jit(ours.make_loss(VGG, settings, losses))(moved, pair, key)
    assert set(terms) == {
        *("contrastive", "perceptual", "contextual"),
        *("structure", "local_structure", "cycle", "anchor"),
    }
    assert all(float(value) > 0 for value in terms.values())
    np.testing.assert_allclose(float(loss), sum(map(float, terms.values())), rtol=1e-5)


def test_the_augmented_pair_passes_beside_the_original(key):
    shapes = {}

    def look(x):
        shapes.update(source=x.source.shape, target=x.target.shape, warped=x.warped.shape)
        shapes.update(phi=x.target_phi["relu1_1"].shape)
        original = jnp.max(jnp.abs(x.source[0] - x.source[1]))
        return original + drift(x)

    settings = config(augment=True)
    _, pair = begin(settings)
    loss_fn = ours.make_loss(VGG, settings, {"look": (1.0, look)})
    loss, _ = jax.jit(loss_fn)(pair.start, pair, key)
    assert shapes["source"] == shapes["target"] == shapes["warped"] == (2, SIZE, SIZE, 3)
    assert shapes["phi"][0] == 2
    assert float(loss) > float(drift(NamespaceParams(pair.start)))  # the two sources differ


class NamespaceParams:
    """As much of LossInputs as `drift` looks at."""

    def __init__(self, params):
        self.params = params


def test_a_weight_of_zero_is_not_computed(key):
    def never(x):
        raise AssertionError("traced")

    settings = config()
    state, pair = begin(settings)
    step = make_step(settings, {"never": (0.0, never), "drift": (0.5, drift)})
    _, info = step(key, state, pair)
    assert set(info.terms) == {"drift"}


def test_same_key_same_bits_and_another_key_differs(key):
    settings = config()
    step = default_step(settings)
    ends = []
    for each in (key, key, jax.random.key(1)):
        state, pair = begin(settings)
        ends.append(ours.run(each, state, pair, step=step, num_steps=3))
    same_bits(ends[0], ends[1])
    first, other = (jax.tree.leaves(end.params) for end in (ends[0], ends[2]))
    assert any(np.any(a != b) for a, b in zip(first, other, strict=True))


def test_saved_and_resumed_equals_unbroken(key, tmp_path):
    settings = config()
    step = default_step(settings)
    state, pair = begin(settings)
    unbroken = ours.run(key, state, pair, step=step, num_steps=6)
    state, pair = begin(settings)
    half = ours.run(key, state, pair, step=step, num_steps=3)
    checkpoint.save(tmp_path / "state", 3, half)
    like, _ = begin(settings)
    restored = checkpoint.restore(tmp_path / "state", like)
    assert int(restored.step) == 3
    same_bits(restored, half)
    same_bits(ours.run(key, restored, pair, step=step, num_steps=6), unbroken)


def test_no_steps_change_nothing(key):
    settings = config()
    state, pair = begin(settings)
    end = ours.run(key, state, pair, step=None, num_steps=0)
    assert end is state
    same_bits(end.params, pair.start)


# Failure


def nan_at(key, number):
    """A loss that is nan in one step: without augmentation the loss sees the step's own key."""
    marked = jax.random.key_data(jax.random.fold_in(key, number - 1))

    def loss(x):
        hit = jnp.all(jax.random.key_data(x.key) == marked)
        return jnp.where(hit, jnp.nan, 0.0) + 0.0 * drift(x)

    return loss


def test_nan_names_step_and_term_and_keeps_the_last_good_state(key):
    settings = config()
    losses = {"drift": (1.0, drift), "broken": (1.0, nan_at(key, 2))}
    step = make_step(settings, losses)
    state, pair = begin(settings)
    good = ours.run(key, state, pair, step=step, num_steps=1)
    good = jax.tree.map(np.asarray, good)
    state, pair = begin(settings)
    with pytest.raises(ours.NonFiniteError, match="step 2: loss term 'broken'") as caught:
        ours.run(key, state, pair, step=step, num_steps=5)
    assert int(caught.value.state.step) == 1
    same_bits(jax.tree.map(np.asarray, caught.value.state), good)


def test_a_gradient_that_is_not_finite_is_noticed(key):
    settings = config()
    losses = {"root": (1.0, lambda x: jnp.sqrt(0.0 * drift(x)))}
    state, pair = begin(settings)
    with pytest.raises(ours.NonFiniteError, match="step 1: a gradient"):
        ours.run(key, state, pair, step=make_step(settings, losses), num_steps=5)


# Optimiser and gradient


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_rate_falls_as_half_a_cosine(name):
    settings = config(optimizer=name, schedule="cosine", steps=4, learning_rate=0.5)
    steady = dataclasses.replace(settings, schedule="constant")
    states = [ours.default_optimizer(one).init({"w": jnp.zeros(2)}) for one in (settings, steady)]
    gradient = {"w": jnp.array([1.0, -2.0])}
    for number in range(6):
        found, states[0] = ours.default_optimizer(settings).update(gradient, states[0])
        whole, states[1] = ours.default_optimizer(steady).update(gradient, states[1])
        part = 0.5 * (1 + math.cos(math.pi * min(number / 4, 1)))
        np.testing.assert_allclose(found["w"], part * whole["w"], rtol=1e-6, atol=1e-7)


def test_another_number_of_steps_is_the_same_program():
    def program(steps):
        made = ours.default_optimizer(config(schedule="cosine", steps=steps))
        params = {"w": jnp.zeros(2)}
        return jax.jit(made.update).lower(params, made.init(params)).as_text()

    assert program(3) == program(300)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_default_optimizer_is_the_one_named(name):
    settings = config(optimizer=name, learning_rate=0.01, beta1=0.3, beta2=0.9)
    expected = optax.adam(0.01, b1=0.3, b2=0.9) if name == "adam" else optax.sgd(0.01)
    params = {"w": jnp.arange(3.0), "b": {"v": jnp.zeros((2, 3)), "u": jnp.zeros(())}}
    states = [one.init(params) for one in (ours.default_optimizer(settings), expected)]
    for w, v in ((jnp.ones(3), 0.5), (jnp.array([1.0, -2.0, 0.0]), -3.0)):
        gradient = {"w": w, "b": {"v": v * jnp.arange(6.0).reshape(2, 3), "u": jnp.float32(v)}}
        found, states[0] = ours.default_optimizer(settings).update(gradient, states[0])
        wanted, states[1] = expected.update(gradient, states[1])
        chex.assert_trees_all_equal(found, wanted)


def test_gradient_is_that_of_finite_differences(x64, key):
    settings = config(
        lambda_structure=3.0,
        lambda_local_structure=2.0,
        lambda_cycle=0.5,
        lambda_anchor=2.0,
        alpha=10.0,
    )
    _, pair = begin(settings)
    pair = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), pair)
    rng = np.random.default_rng(0)

    def noise(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape))

    params = jax.tree.map(lambda leaf: leaf + 0.05 * noise(leaf), pair.start)
    direction = jax.tree.map(noise, pair.start)
    losses = default_losses(settings)
    loss_fn = ours.make_loss(VGG, settings, losses)
    value = jax.jit(lambda params: loss_fn(params, pair, key)[0])
    assert value(params).dtype == jnp.float64
    gradient = jax.jit(jax.grad(value))(params)
    along = sum(
        float(jnp.vdot(g, d))
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    eps = 1e-7
    up, down = (
        float(value(jax.tree.map(lambda p, d, sign=sign: p + sign * eps * d, params, direction)))
        for sign in (1, -1)
    )
    assert abs(along) > 1e-3
    np.testing.assert_allclose(along, (up - down) / (2 * eps), rtol=1e-5)


def test_loss_and_gradient_do_not_hang_on_how_loops_are_made_into_code(x64, key):
    """A number that a program computes twice may have other last digits; nothing may ask for more."""
    settings = config(augment=True, lambda_structure=3.0, lambda_local_structure=2.0)
    _, pair = begin(settings)
    pair = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), pair)
    loss_fn = jax.value_and_grad(
        ours.make_loss(VGG, settings, default_losses(settings)), has_aux=True
    )
    lowered = jax.jit(loss_fn).lower(pair.start, pair, key)
    found = [
        lowered.compile({"xla_cpu_use_fusion_emitters": new})(pair.start, pair, key)
        for new in (False, True)
    ]
    assert float(found[0][0][0]) > 0.1
    chex.assert_trees_all_close(*found, rtol=1e-9, atol=1e-9)


# Warp and other networks


@pytest.mark.parametrize("augment", [False, True])
def test_a_step_reports_the_soft_warp_that_it_began_with(key, augment):
    settings = config(augment=augment, prior=0.5, layout=2.0)
    state, pair = begin(settings)
    step = make_step(settings, default_losses(settings))
    warp = jax.jit(ours.make_warp(VGG, settings))
    seen = []
    for _ in range(3):
        expected = warp(state.params, pair).soft
        state, info = step(key, state, pair)
        np.testing.assert_allclose(info.soft, expected, atol=1e-5)
        seen.append(np.asarray(expected))
    assert np.abs(seen[2] - seen[0]).max() > 1e-3  # they are not all one


def test_warp_of_the_pair(key):
    settings = config()
    _, pair = begin(settings)
    warp = ours.make_warp(VGG, settings)(pair.start, pair)
    assert warp.soft.shape == warp.voted.shape == (1, SIZE, SIZE, 3)
    assert warp.best.shape == warp.confidence.shape == (1, GRID * GRID)
    for picture in (warp.soft, warp.voted):
        assert picture.min() >= pair.target.min() - 1e-5
        assert picture.max() <= pair.target.max() + 1e-5
    assert np.all((warp.best >= 0) & (warp.best < GRID * GRID))
    assert np.all((warp.confidence > 0) & (warp.confidence <= 1 + 1e-6))


def test_resnet_is_tuned_and_its_statistics_stay(key):
    taps = {"taps": ("layer1", "layer2"), "gram_taps": ("layer1",), "contextual_taps": ("layer2",)}
    settings = config(**taps, lambda_contrastive=0.0)  # one term less compiles sooner
    state, pair = begin(settings, RESNET)
    step = make_step(settings, default_losses(settings), RESNET)
    end = ours.run(key, state, pair, step=step, num_steps=2)
    moved = {"stays": [], "tuned": []}

    def compare(path, new, old):
        kind = "stays" if path[-1].key in ("mean", "var") else "tuned"
        moved[kind].append(bool(np.any(new != old)))

    jax.tree_util.tree_map_with_path(compare, end.params, pair.start)
    assert len(moved["stays"]) > 4
    assert not any(moved["stays"])
    assert any(moved["tuned"])


def untuned_of(pair, settings):
    """What untuned networks match alone, and the layout that they tell."""
    bare = pair._replace(known=None)
    found = ours.matches_of(pair.start, bare, backbone=VGG, config=settings)
    return found, layout_of(found, window=settings.consensus, alpha=settings.alpha)


@pytest.mark.parametrize("tile", [0, 16], ids=["whole", "tiled"])
def test_the_untuned_match_keeps_its_weight_in_the_tuned_one(tile):
    settings = config(prior=0.5, layout=2.0, tile=tile)
    state, pair = begin(settings)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, state.params)
    matches = ours.matches_of(moved, pair, backbone=VGG, config=settings)
    bare = pair._replace(known=None)
    alone = ours.matches_of(moved, bare, backbone=VGG, config=settings)
    before, (expected, shared) = untuned_of(pair, settings)
    assert (matches.matrix is None) == bool(tile)
    untuned, tuned, both = (
        np.einsum("npc,nqc->npq", *(np.float64(side) for side in found[:2]))
        for found in (before, alone, matches)
    )
    assert np.abs(tuned - untuned).max() > 0.05
    apart = np.sum(np.square(expected[:, :, None] - places(GRID)[None, None]), axis=-1)
    lowered = (tuned + 0.5 * untuned) / 1.5 - 2 * float(shared[0]) * apart
    np.testing.assert_allclose(both, lowered, atol=1e-5)


@pytest.mark.parametrize("tile", [0, 16], ids=["whole", "tiled"])
def test_a_picture_moved_by_a_cell_is_expected_where_it_went(tile):
    """Its texture is fine, so that hardly two places look alike; a border comes in anew."""
    settings, cell = config(tile=tile), SIZE // GRID
    photo, other = np.random.default_rng(2).uniform(size=(2, 1, SIZE, SIZE, 3)).astype(np.float32)
    other[:, :, cell:] = photo[:, :, :-cell]
    made = make_init(VGG, settings, ours.default_optimizer(settings))
    _, pair = made(weights(VGG), jnp.asarray(photo), jnp.asarray(other))
    moved = np.asarray(untuned_of(pair, settings)[1].expected[0] - places(GRID)) * GRID
    np.testing.assert_allclose(moved.mean(0), (0, 1), atol=0.2)


def test_what_is_known_without_weight_is_not_computed():
    _, pair = begin(config(prior=0.0, layout=0.0))
    assert jax.tree.leaves(pair.known) == []
    alone = begin(config(prior=1.0, layout=0.0))[1]  # its factors have no channels of a layout
    channels = untuned_of(alone, config())[0].source.shape[-1]
    assert alone.known.source.shape[-1] == channels
    assert begin(config(prior=1.0, layout=1.0))[1].known.source.shape[-1] > channels


@pytest.mark.parametrize(("prior", "layout"), [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_what_is_known_is_one_matrix_before_any_step(prior, layout):
    settings = config(prior=prior, layout=layout)
    pair = begin(settings)[1]
    untuned, (at, shared) = untuned_of(pair, settings)
    expected = np.float64(untuned.matrix) * prior / (1 + prior)
    if layout:
        apart = np.sum(np.square(at[:, :, None] - places(GRID)[None, None]), axis=-1)
        expected = expected - layout * float(shared[0]) * apart
    found = pair.known
    np.testing.assert_allclose(found.matrix, expected, atol=1e-5)
    product = np.einsum("npc,nqc->npq", *(np.float64(side) for side in found[:2]))
    np.testing.assert_allclose(product, expected, atol=1e-5)


def test_untuned_weights_match_as_without_a_prior():
    """(M + w M) / (1 + w) is M: the prior changes only what tuning does."""
    settings, plain = config(prior=2.0), config(prior=0.0)
    with_prior, without = (
        ours.make_warp(VGG, each)(state.params, pair)
        for each in (settings, plain)
        for state, pair in [begin(each)]
    )
    np.testing.assert_allclose(with_prior.soft, without.soft, atol=1e-4)


def test_an_augmented_pair_has_a_prior_of_its_own():
    """The step on an augmented pair is that of a batch whose untuned match is computed anew."""
    settings = config(prior=1.0, augment=True)
    state, pair = begin(settings)
    loss_fn = jax.jit(ours.make_loss(VGG, settings, default_losses(settings)))
    key = jax.random.key(3)
    loss, _ = loss_fn(state.params, pair, key)
    # At the start both halves equal what they are without one, whatever is drawn.
    plain = config(prior=0.0, augment=True)
    without = jax.jit(ours.make_loss(VGG, plain, default_losses(plain)))
    other, _ = without(state.params, begin(plain)[1], key)
    np.testing.assert_allclose(loss, other, rtol=1e-4)


def test_what_is_known_of_an_augmented_pair_is_its_own(key):
    """Matches of both pairs are those of a batch of two whose every picture is seen anew."""
    settings = config(augment=True, prior=0.7)
    _, pair = begin(settings)
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.abs(leaf) ** 2, pair.start)

    @jax.jit
    def seen(params):
        found = {}

        def look(x):
            found.update(source=x.source, target=x.target, matches=x.matches)
            return drift(x)

        ours.make_loss(VGG, settings, {"look": (1.0, look)})(params, pair, key)
        return found

    @jax.jit
    def anew(params, source, target):
        tuned, before = (
            ours.correlate(x, source, target, pair.scales, backbone=VGG, config=settings)[0]
            for x in (params, pair.start)
        )
        layout = layout_of(before, window=settings.consensus, alpha=settings.alpha)
        share = 1 / (1 + settings.prior)
        parts = scaled(tuned, share), scaled(before, settings.prior * share)
        pulling = pull(layout, settings.layout, GRID, whole=True)
        return added(*parts), pulling, tuned

    found = seen(moved)
    both, pulling, tuned = anew(moved, found["source"], found["target"])
    expected = added(both, pulling)
    chex.assert_trees_all_close(found["matches"], expected, atol=1e-5)
    apart = jnp.max(jnp.abs(expected.matrix - tuned.matrix), axis=(1, 2))
    assert float(jnp.min(apart)) > 0.01  # what is known moves the matches of either pair
    assert float(jnp.max(jnp.abs(expected.matrix[0] - expected.matrix[1]))) > 0.01


@pytest.mark.parametrize("weight", [1.0, 0.0], ids=["prior and layout", "neither"])
def test_the_untuned_network_sees_augmented_pictures_once(weight, key):
    """And the source not at all where nothing need be known of it."""
    settings = config(augment=True, prior=weight, layout=weight)
    _, pair = begin(settings)
    passes = []
    counted = VGG._replace(
        apply=lambda p, x, taps: passes.append((len(x), taps)) or VGG.apply(p, x, taps)
    )
    loss_fn = ours.make_loss(counted, settings, {"drift": (1.0, drift)})
    jax.eval_shape(loss_fn, pair.start, pair, key)
    untuned = passes[0]  # before those of W_S, of W_T and of the warp by both
    assert [number for number, _ in passes[1:]] == [2, 2, 2, 2]
    assert untuned[0] == (2 if weight else 1)
    assert {"relu1_1", "relu3_1"} <= set(untuned[1])


def test_the_prior_of_a_second_pair_compiles_nothing():
    settings = config(prior=1.0)
    begin(settings)
    made = make_init(VGG, settings, ours.default_optimizer(settings))
    begin(settings)
    assert made._cache_size() == 1
