"""Multi-code inversion: composition, objective, best so far, hypotheses, gradients, errors."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from oracles import inversion as oracle

from oeft_jax import inversion
from oeft_jax._checks import InputError
from oeft_jax.composition import Latents, generate, init_latents
from oeft_jax.config import InversionConfig
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.inversion import Goal
from oeft_jax.models.backbone import Backbone, backbone
from oeft_jax.models.generator import Generator
from oeft_jax.models.pggan import pggan
from oeft_jax.models.stylegan import stylegan

TAP = "relu2_1"
LAYER = 3
PLAN = ((LAYER, 2), (LAYER, 3))
STEPS = 60
TOLERANCE = 1e-5  # float32 against float64, values of about 1
CONFIG = InversionConfig(
    composing_layers=(LAYER,), num_codes=(2, 3), steps=STEPS, perceptual_tap=TAP, l1=0.3
)


class Small(NamedTuple):
    """A generator of 16 x 16 with six layers and a perceptual network."""

    generator: Generator
    params: dict
    backbone: Backbone
    phi: dict


def draw(shapes, seed):
    """No zeros, so that biases count."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        scale = {"bias": 0.2, "noise_weight": 0.2, "w_avg": 0.2}.get(path[-1].key, 1.0)
        scale *= 100.0 if path[0].key == "mapping" else 1.0
        return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def make_small(generator):
    network = backbone("vgg", {"depths": [1, 1, 1, 1, 1], "widths": [4, 4, 4, 4, 4]})
    key = jax.random.key(0)
    phi = draw(jax.eval_shape(lambda key: network.init(key, (TAP,)), key), 1)
    phi = jax.tree.map(lambda leaf: 0.3 * leaf, phi)
    return Small(generator, draw(jax.eval_shape(generator.init, key), 0), network, phi)


@pytest.fixture(scope="module")
def small():
    return make_small(pggan(16, z_dim=12, fmap_base=64, fmap_max=8))


@pytest.fixture(scope="module")
def picture(small):
    """What the generator makes of one code, as a warp of 8 x 8 in [0, 1]."""
    z = jnp.asarray(np.random.default_rng(5).normal(size=(1, 12)), jnp.float32)
    image = inversion.down(small.generator.sample(small.params, z)[0], 8)
    assert image.std() > 0.2
    return jnp.clip(image * 0.5 + 0.5, 0, 1)


@pytest.fixture(scope="module")
def goal(small, picture):
    return make_goal(small, picture)


@pytest.fixture(scope="module")
def step(small):
    """The step of two hypotheses, compiled once for this module."""
    return make_step(small, CONFIG)


@pytest.fixture(scope="module")
def render(small):
    return jax.jit(lambda latents: generate(small.generator, small.params, latents, PLAN))


@pytest.fixture(scope="module")
def measure(small):
    objective = inversion.make_objective(small.generator, small.backbone, CONFIG)
    return jax.jit(lambda latents, goal: objective(latents, goal, PLAN))


def make_goal(small, warped, config=CONFIG):
    generator, params, network, phi = small
    return inversion.make_goal(warped, generator, params, phi, backbone=network, config=config)


def make_step(small, config, plan=PLAN):
    optimizer = inversion.default_optimizer(config)
    return inversion.make_step(small.generator, small.backbone, config, optimizer, plan)


def start(small, plan=PLAN, seed=0):
    key = jax.random.key(seed)
    return tuple(init_latents(key, small.generator, small.params, *one) for one in plan)


def begin(latents, config=CONFIG):
    return inversion.init_from(latents, inversion.default_optimizer(config))


def optimise(latents, goal, step, *, steps=STEPS, config=CONFIG, drops=None):
    """(final state, the losses of each step)."""
    rows = []
    state = begin(latents, config)
    state = inversion.run(
        state,
        goal,
        step=step,
        num_steps=steps,
        drops=drops,
        on_step=lambda number, state, row: rows.append(row["loss"]),
    )
    return state, rows


def best_of(state):
    """(best latents of every hypothesis, their losses [h])."""
    trials = state.trials
    return tuple(one.best for one in trials), np.array([one.best_loss for one in trials])


@pytest.mark.parametrize(("relative", "mode"), [(True, "area"), (False, "bilinear")])
def test_objective_equals_loops_term_by_term(small, picture, render, relative, mode):
    weights = {"l1": 0.7, "l2": 1.3, "perceptual": 0.4}
    config = InversionConfig(**weights, perceptual_tap=TAP, perceptual_relative=relative, down=mode)
    goal, latents = make_goal(small, picture, config), start(small)
    images = np.asarray(render(latents))
    objective = inversion.make_objective(small.generator, small.backbone, config)
    losses, terms, _ = jax.jit(lambda latents: objective(latents, goal, PLAN))(latents)
    assert set(terms) == set(weights)
    reduce = oracle.block_mean if mode == "area" else oracle.central_mean
    theirs = np.float64(picture) * 2 - 1
    for i, image in enumerate(images):
        ours = reduce(image, 2)
        both = jnp.asarray(np.stack([ours, theirs]) * 0.5 + 0.5, jnp.float32)
        features = np.asarray(small.backbone.apply(small.phi, both, (TAP,))[TAP])
        assert (features > 0).mean() > 0.1
        expected = oracle.objective_terms(ours, theirs, *features, relative=relative)
        for name, weight in weights.items():
            np.testing.assert_allclose(terms[name][i], weight * expected[name], rtol=1e-4)
        total = sum(weights[name] * expected[name] for name in weights)
        np.testing.assert_allclose(losses[i], total, rtol=1e-4)


def test_terms_of_weight_zero_are_left_out_and_do_not_count(small, goal):
    config = InversionConfig(l1=0, l2=2.0, perceptual=0, perceptual_tap=TAP)
    objective = inversion.make_objective(small.generator, small.backbone, config)
    losses, terms, _ = objective(start(small), goal, PLAN)
    assert set(terms) == {"l2"}
    assert (losses == terms["l2"]).all()
    assert (losses > 0).all()


def test_sixty_adam_steps_lower_every_loss_and_the_step_compiles_once(small, goal, step):
    step.clear_cache()
    state, losses = optimise(start(small), goal, step)
    assert np.shape(losses) == (STEPS, 2)
    assert (losses[-1] < 0.5 * losses[0]).all()
    assert step._cache_size() == 1
    assert int(state.step) == STEPS


def test_step_keeps_tree_shapes_and_dtypes(small, goal, step):
    state = begin(start(small))
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    after, info = step(state, goal, (0, 1))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before
    np.testing.assert_allclose(info.loss, sum(info.terms.values()), rtol=1e-6)


def test_best_loss_never_rises_and_best_codes_reproduce_it(small, goal, step, measure):
    state = begin(start(small))
    seen, bests = [], []
    for _ in range(25):
        state, info = step(state, goal, (0, 1))
        seen.append(np.asarray(info.loss))
        bests.append(best_of(state)[1])
    np.testing.assert_array_equal(bests, np.minimum.accumulate(seen))
    again, *_ = measure(best_of(state)[0], goal)
    np.testing.assert_allclose(again, bests[-1], rtol=1e-4)


def test_absurd_learning_rate_still_returns_the_best_codes_seen(small, goal, measure):
    config = InversionConfig(optimizer="sgd", learning_rate=1e6, perceptual_tap=TAP, l1=0.3)
    state, losses = optimise(start(small), goal, make_step(small, config), steps=12, config=config)
    latents, best = best_of(state)
    np.testing.assert_array_equal(best, np.nanmin(losses, axis=0))
    assert (losses[-1] > best).any()  # it did wander off
    again, *_ = measure(latents, goal)
    np.testing.assert_allclose(again, best, rtol=1e-4)


def test_nan_in_one_hypothesis_leaves_the_other_bitwise_untouched(small, goal, step):
    latents = start(small)
    spoilt = (jax.tree.map(lambda leaf: leaf * jnp.nan, latents[0]), latents[1])
    expected, _ = optimise(latents, goal, step, steps=10)
    state, losses = optimise(spoilt, goal, step, steps=10)
    assert np.isnan(losses)[:, 0].all()
    assert np.isinf(state.trials[0].best_loss)
    for ours, theirs in zip(
        jax.tree.leaves(state.trials[1]), jax.tree.leaves(expected.trials[1]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_all_nan_raises_naming_term_and_step_and_hands_over_the_state(small, goal, step):
    latents = jax.tree.map(lambda leaf: leaf * jnp.nan, start(small))
    with pytest.raises(NonFiniteError, match=r"step 1: term 'l1' .*learning-rate") as caught:
        optimise(latents, goal, step)
    assert int(caught.value.state.step) == 1


def test_non_finite_perceptual_term_is_named_and_steps_count_from_the_start(small, goal, step):
    goal = goal._replace(warped_phi=jnp.full_like(goal.warped_phi, jnp.nan))
    state = begin(start(small))
    state = state._replace(step=jnp.int32(6))
    with pytest.raises(NonFiniteError, match="step 7: term 'perceptual'"):
        inversion.run(state, goal, step=step, num_steps=9)


def test_run_that_has_its_steps_does_no_more(small, goal, step):
    state = begin(start(small))
    state = state._replace(step=jnp.int32(STEPS))
    assert inversion.run(state, goal, step=step, num_steps=STEPS) is state


def invert(small, warped, config, **options):
    generator, params, network, phi = small
    optimizer = inversion.default_optimizer(config)
    options = {"backbone": network, "config": config, "optimizer": optimizer, **options}
    return inversion.invert(jax.random.key(0), warped, generator, params, phi, **options)


def test_inverting_a_picture_of_the_generator_gains_many_decibels(small, picture, render):
    found = invert(small, picture, CONFIG)
    theirs = np.float64(picture) * 2 - 1
    images = np.asarray(render(start(small)))
    before = [oracle.psnr(oracle.block_mean(image, 2), theirs) for image in images]
    assert [(one.composing_layer, one.num_codes) for one in found] == list(PLAN)
    for one, first in zip(found, before, strict=True):
        assert one.psnr > first + 3  # how far one gets in few steps hangs on rounding
        assert one.image.shape == (16, 16, 3)
        assert one.image.min() >= 0
        assert one.image.max() <= 1
    assert max(one.psnr for one in found) > 14


def test_reported_psnr_and_loss_are_those_of_the_picture(small, picture):
    """A goal of the generator's own size is compared with the picture itself."""
    config = InversionConfig(
        composing_layers=(LAYER,), num_codes=(2,), steps=3, perceptual=0, perceptual_tap=TAP
    )
    warped = np.repeat(np.repeat(np.asarray(picture), 2, axis=0), 2, axis=1)
    (one,) = invert(small, warped, config)
    expected = oracle.psnr(one.image * 2 - 1, warped * 2 - 1)
    np.testing.assert_allclose(one.psnr, expected, atol=1e-3)
    assert one.loss >= 4 * 10 ** (-one.psnr / 10) * (1 - 1e-5)  # the loss is not clipped


def test_warp_larger_than_the_generator_is_compared_at_the_generators_size(small):
    warped = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
    goal = make_goal(small, warped)
    expected = oracle.block_mean(warped, 2) * 2 - 1
    np.testing.assert_allclose(goal.warped, expected, rtol=0, atol=TOLERANCE)


def test_sgd_moves_latents_by_the_learning_rate_times_the_gradient(small, goal, measure):
    config = InversionConfig(optimizer="sgd", learning_rate=0.5, perceptual_tap=TAP, l1=0.3)
    latents = start(small)
    slopes = jax.jit(jax.grad(lambda one: measure((latents[0], one), goal)[0][1]))(latents[1])
    state, _ = make_step(small, config)(begin(latents, config), goal, (0, 1))
    for new, old, slope in zip(state.trials[1].latents, latents[1], slopes, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * slope, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("active", [(0,), (1, 3), (2,)])
def test_hypotheses_inverted_together_equal_each_alone(small, goal, active):
    """Of other layers and other numbers of codes, from start values that do not know of them."""
    plan = ((2, 2), (3, 1), (3, 3), (6, 2))
    together, _ = optimise(start(small, plan), goal, make_step(small, CONFIG, plan), steps=8)
    few = tuple(plan[i] for i in active)
    alone, _ = optimise(start(small, few), goal, make_step(small, CONFIG, few), steps=8)
    latents, losses = best_of(together)
    np.testing.assert_allclose(losses[list(active)], best_of(alone)[1], rtol=1e-4)
    theirs = jax.tree.leaves(best_of(alone)[0])
    for ours, other in zip(jax.tree.leaves([latents[i] for i in active]), theirs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-3)


# Successive halving


@pytest.mark.parametrize(
    ("halving", "expected"),
    [
        (0, {}),
        (1, {32: 3}),
        (2, {16: 3, 32: 2}),
        (3, {8: 3, 16: 2, 32: 1}),
        (6, {1: 3, 2: 2, 4: 1}),
    ],
)
def test_rungs_double_the_steps_and_halve_the_hypotheses(halving, expected):
    found = inversion.rungs(5, InversionConfig(steps=64, halving=halving))
    assert {number: found[number] for number in expected} == expected
    assert len(found) == halving


def test_worse_half_is_dropped_and_the_rest_goes_on_as_if_it_had_not_been(small, goal):
    plan = ((2, 2), (3, 2), (3, 3), (6, 2))
    step = make_step(small, CONFIG, plan)
    whole, losses = optimise(start(small, plan), goal, step, steps=12)
    state, seen = optimise(start(small, plan), goal, step, steps=12, drops={6: 2})
    kept = np.sort(np.argsort(np.min(losses[:6], axis=0))[:2])
    assert [len(row) for row in seen] == [4] * 6 + [2] * 6
    assert inversion.active_of(state) == tuple(kept)
    np.testing.assert_allclose(np.array(seen[6:]), np.array(losses[6:])[:, kept], rtol=1e-3)
    early, _ = optimise(start(small, plan), goal, step, steps=6)
    for i in range(4):
        expected = whole.trials[i] if i in kept else early.trials[i]  # a dropped one stays put
        for ours, theirs in zip(
            jax.tree.leaves(state.trials[i]), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


def test_lost_hypothesis_is_the_first_to_be_dropped(small):
    state = inversion.drop(begin(start(small)), np.array([np.inf, 3.0]), 1)
    assert inversion.active_of(state) == (1,)
    state = inversion.drop(begin(start(small)), np.array([3.0, 3.0]), 1)
    assert inversion.active_of(state) == (0,)  # ties go to the first


def test_inversion_with_halving_returns_what_was_kept(small, picture):
    config = dataclasses.replace(CONFIG, steps=8, num_codes=(1, 2, 3), halving=1)
    numbers = []
    found = invert(
        small, picture, config, on_step=lambda number, state, row: numbers.append(len(row["loss"]))
    )
    assert numbers == [3, 3, 3, 3, 2, 2, 2, 2]
    whole = invert(small, picture, dataclasses.replace(config, halving=0))
    assert len(found) == 2
    for one in found:
        (same,) = [other for other in whole if other.num_codes == one.num_codes]
        np.testing.assert_allclose(one.image, same.image, rtol=0, atol=1e-3)


# Programs


def test_programs_hold_nothing_of_a_pair_and_serve_another_without_compiling(small, picture):
    config = dataclasses.replace(CONFIG, steps=2)
    optimizer = inversion.default_optimizer(config)
    programs = inversion.make_programs(small.generator, small.backbone, config, optimizer)
    found = []
    for warped in (picture, 1 - picture):
        goal = programs.make_goal(warped, params=small.params, phi=small.phi)
        state = inversion.init(
            jax.random.key(0), small.generator, small.params, programs.plan, optimizer
        )
        state = inversion.run(state, goal, step=programs.step, num_steps=2)
        found.append(inversion.hypotheses_of(state, goal, programs))
    assert programs.step._cache_size() == programs.compare._cache_size() == 1
    for one, other in zip(found[1], invert(small, 1 - picture, config), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert np.abs(found[0][0].image - found[1][0].image).max() > 0.01


def test_hypotheses_show_the_best_codes_and_leave_the_state_to_go_on(small, picture, goal, render):
    programs = inversion.make_programs(
        small.generator, small.backbone, CONFIG, inversion.default_optimizer(CONFIG)
    )
    worse = start(small, seed=1)
    state = inversion.run(begin(start(small)), goal, step=programs.step, num_steps=6)
    state = state._replace(  # as after steps that went astray
        trials=tuple(
            t._replace(latents=other) for t, other in zip(state.trials, worse, strict=True)
        )
    )
    found = inversion.hypotheses_of(state, goal, programs)
    images, wanted = np.asarray(render(best_of(state)[0])), np.asarray(picture) * 2 - 1
    for one, image, loss in zip(found, images, best_of(state)[1], strict=True):
        shown = np.clip(image * 0.5 + 0.5, 0, 1)
        np.testing.assert_allclose(one.image, shown, rtol=0, atol=TOLERANCE)
        expected = oracle.psnr(oracle.block_mean(image, 2), wanted)
        np.testing.assert_allclose(one.psnr, expected, atol=1e-3)
        assert one.loss == loss
    state = inversion.run(state, goal, step=programs.step, num_steps=8)
    assert int(state.step) == 8


def test_frozen_weights_get_no_gradient(small, goal):
    """Work of a step: forward and back to the codes, and not a third time to the weights."""
    objective = inversion.make_objective(small.generator, small.backbone, CONFIG)

    def work(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    def total(latents, goal):
        return jnp.sum(objective(latents, goal, PLAN)[0])

    latents = start(small)
    forward = work(total, latents, goal)
    assert work(jax.grad(total), latents, goal) < 2.5 * forward
    assert work(jax.grad(total, argnums=(0, 1)), latents, goal) > 2.7 * forward


def test_same_key_gives_the_same_bits_and_another_key_other_codes(small, goal, step):
    first, _ = optimise(start(small), goal, step, steps=8)
    second, _ = optimise(start(small), goal, step, steps=8)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert jnp.abs(start(small, seed=1)[0].codes - start(small)[0].codes).max() > 0.1


def test_stylegan_goes_through_the_same_interface_and_its_tail_codes_move(picture):
    styled = make_small(stylegan(8, z_dim=6, w_dim=5, fmap_base=64, fmap_max=4))
    plan = ((2, 2), (2, 3))
    latents = start(styled, plan)
    assert [one.codes.shape for one in latents] == [(2, 5), (3, 5)]
    assert [one.tail.shape for one in latents] == [(2, 5), (2, 5)]  # layers 2 and 3
    goal = make_goal(styled, picture)
    state, losses = optimise(latents, goal, make_step(styled, CONFIG, plan), steps=20)
    assert (losses[-1] < 0.9 * losses[0]).all()
    tails = [one.latents.tail for one in state.trials]
    assert all(
        jnp.abs(tail - one.tail).max(axis=1).min() > 1e-4
        for tail, one in zip(tails, latents, strict=True)
    )
    assert jnp.abs(tails[0] - tails[1]).max() > 1e-3


@pytest.mark.parametrize("layer", [0, 7])
def test_composing_layer_out_of_range_is_refused_with_the_accepted_range(small, layer):
    config = InversionConfig(composing_layers=(LAYER, layer))
    match = rf"--inversion-composing-layers={layer} .*accepted: \[1, 6\]"
    with pytest.raises(InputError, match=match):
        inversion.check_layers(small.generator, config)
    with pytest.raises(InputError, match="accepted: whole numbers from 1 to 6"):
        start(small, ((layer, 2),))
    inversion.check_layers(small.generator, CONFIG)


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(InputError, match="no hypothesis to choose from"):
        inversion.require([])


def test_gradient_of_the_objective_equals_finite_differences_in_float64():
    tiny = make_small(pggan(8, z_dim=3, fmap_base=16, fmap_max=3))
    config = InversionConfig(perceptual_tap=TAP, l1=0.3)
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):

        def double(tree):
            return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)

        warped = jnp.asarray(rng.uniform(-1, 1, (4, 4, 3)))
        features = jnp.asarray(rng.uniform(0, 1, (1, 2, 2, 4)))
        goal = Goal(double(tiny.params), double(tiny.phi), warped, features)
        objective = inversion.make_objective(tiny.generator, tiny.backbone, config)
        plan, tail = ((1, 1), (2, 3)), jnp.zeros((0, 3))

        @jax.jit
        def loss(code, codes, importance):
            latents = (Latents(code, jnp.ones((1, 3)), tail), Latents(codes, importance, tail))
            return jnp.sum(objective(latents, goal, plan)[0] * jnp.array([1.0, 2.0]))

        args = tuple(jnp.asarray(rng.normal(size=(k, 3))) for k in (1, 3, 3))
        assert loss(*args).dtype == jnp.float64
        slopes = jax.grad(loss, argnums=(0, 1, 2))(*args)
        assert all(jnp.abs(slope).max() > 1e-3 for slope in slopes)
        check_grads(loss, args, order=1, modes=["rev"], eps=1e-6, rtol=1e-5)
