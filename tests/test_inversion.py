"""Multi-code inversion: composition, objective, best so far, hypotheses, gradients, errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from oracles import inversion as oracle

from oeft_jax import inversion
from oeft_jax._checks import InputError
from oeft_jax.config import InversionConfig
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.inversion import Goal, Latents
from oeft_jax.models.backbone import Backbone, backbone
from oeft_jax.models.generator import Generator
from oeft_jax.models.pggan import pggan
from oeft_jax.models.stylegan import stylegan

TAP = "relu2_1"
LAYER = 3
COUNTS = (2, 3)
STEPS = 60
TOLERANCE = 1e-5  # float32 against float64, values of about 1
CONFIG = InversionConfig(
    composing_layers=(LAYER,), num_codes=COUNTS, steps=STEPS, perceptual_tap=TAP, l1=0.3
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


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """These programs take XLA far longer to compile than to run."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


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
    def images(latents, mask):
        return jax.vmap(
            lambda one, use: inversion.generate(small.generator, small.params, one, use, LAYER)
        )(latents, mask)

    return jax.jit(images)


@pytest.fixture(scope="module")
def measure(small):
    objective = inversion.make_objective(small.generator, small.backbone, CONFIG, LAYER)
    return jax.jit(objective)


def make_goal(small, warped, config=CONFIG, counts=COUNTS):
    generator, params, network, phi = small
    return inversion.make_goal(
        warped, generator, params, phi, counts, backbone=network, config=config
    )


def make_step(small, config, layer=LAYER):
    optimizer = inversion.default_optimizer(config)
    return inversion.make_step(small.generator, small.backbone, config, optimizer, layer)


def start(small, counts=COUNTS, seed=0, layer=LAYER):
    key = jax.random.key(seed)
    return inversion.init_latents(key, small.generator, small.params, layer, counts)


def optimise(latents, goal, step, *, steps=STEPS, config=CONFIG):
    """(final state, losses [steps, h])."""
    rows = []
    state = inversion.init(latents, inversion.default_optimizer(config))
    state = inversion.run(
        state,
        goal,
        step=step,
        num_steps=steps,
        on_step=lambda number, row: rows.append(row["loss"]),
    )
    return state, np.array(rows)


def pick(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@pytest.mark.parametrize("layer", [1, 3, 6])
def test_image_is_the_tail_of_the_features_composed_by_loops(small, layer):
    rng = np.random.default_rng(layer)
    channels = small.generator.channels(layer)
    codes = jnp.asarray(rng.normal(size=(3, 12)), jnp.float32)
    importance = jnp.asarray(rng.normal(size=(3, channels)), jnp.float32)
    mask = jnp.array([1.0, 0.0, 1.0])
    features = np.asarray(small.generator.head(small.params, codes, layer))
    composed = oracle.compose(features, np.asarray(importance), np.asarray(mask))
    no_codes = jnp.zeros((1, 0, 12))
    features = jnp.asarray(composed[None], jnp.float32)
    expected = small.generator.tail(small.params, features, no_codes, layer)[0]
    latents = Latents(codes, importance, no_codes[0])
    image = inversion.generate(small.generator, small.params, latents, mask, layer)
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image, expected, rtol=0, atol=10 * TOLERANCE)


def test_codes_start_with_equal_shares_that_sum_to_one_over_those_in_use(small):
    latents, mask = start(small), inversion.make_mask(COUNTS)
    assert latents.codes.shape == (2, 3, 12)
    assert latents.importance.shape == (2, 3, small.generator.channels(LAYER))
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 1]])
    sums = jnp.sum(latents.importance * mask[:, :, None], axis=1)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-6)
    assert jnp.abs(latents.codes[0] - latents.codes[1]).max() > 0.1


def test_masked_codes_change_neither_image_nor_gradient(small, goal, render, measure):
    latents, mask = start(small), goal.mask
    other = Latents(
        latents.codes.at[0, 2].set(3.0), latents.importance.at[0, 2].set(-5.0), latents.tail
    )
    first, second = render(latents, mask), render(other, mask)
    np.testing.assert_array_equal(first[0], second[0])
    grad = jax.jit(jax.grad(lambda one: measure(one, mask[0], goal)[0]))
    before, after = grad(pick(latents, 0)), grad(pick(other, 0))
    for one in (before, after):
        assert (one.codes[2] == 0).all()
        assert (one.importance[2] == 0).all()
        assert jnp.abs(one.codes[:2]).max() > 1e-5
    np.testing.assert_array_equal(before.codes, after.codes)
    np.testing.assert_array_equal(before.importance, after.importance)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bilinear_down_is_the_mean_of_the_central_two_by_two(factor):
    image = np.random.default_rng(0).normal(size=(3 * factor, 3 * factor, 3)).astype(np.float32)
    ours = inversion.down(jnp.asarray(image), 3, mode="bilinear")
    expected = oracle.central_mean(image, factor)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_area_down_is_the_mean_of_each_block(factor):
    image = np.random.default_rng(0).normal(size=(3 * factor, 3 * factor, 3)).astype(np.float32)
    ours = inversion.down(jnp.asarray(image), 3)
    np.testing.assert_allclose(ours, oracle.block_mean(image, factor), rtol=0, atol=TOLERANCE)


def test_down_by_an_uneven_factor_keeps_a_constant_and_a_smaller_image_is_left_alone():
    flat = inversion.down(jnp.full((16, 16, 3), 0.25), 6)
    assert flat.shape == (6, 6, 3)
    np.testing.assert_allclose(flat, 0.25, rtol=1e-6)
    image = jnp.ones((4, 4, 3))
    assert inversion.down(image, 8) is image


def test_bilinear_down_gives_three_quarters_of_the_pixels_no_gradient_and_area_all():
    def untouched(mode):
        grad = jax.grad(lambda x: jnp.sum(inversion.down(x, 4, mode=mode)))
        return float(jnp.mean(grad(jnp.ones((16, 16, 3))) == 0))

    assert untouched("bilinear") == 0.75
    assert untouched("area") == 0.0


@pytest.mark.parametrize(("relative", "mode"), [(True, "area"), (False, "bilinear")])
def test_objective_equals_loops_term_by_term(small, picture, render, relative, mode):
    weights = {"l1": 0.7, "l2": 1.3, "perceptual": 0.4}
    config = InversionConfig(
        **weights, perceptual_tap=TAP, perceptual_relative=relative, down=mode, num_codes=COUNTS
    )
    goal, latents = make_goal(small, picture, config), start(small)
    image = np.asarray(render(latents, goal.mask)[0])
    reduce = oracle.block_mean if mode == "area" else oracle.central_mean
    ours, theirs = reduce(image, 2), np.float64(picture) * 2 - 1
    both = jnp.asarray(np.stack([ours, theirs]) * 0.5 + 0.5, jnp.float32)
    features = np.asarray(small.backbone.apply(small.phi, both, (TAP,))[TAP])
    assert (features > 0).mean() > 0.1
    expected = oracle.objective_terms(ours, theirs, features[0], features[1], relative=relative)
    objective = inversion.make_objective(small.generator, small.backbone, config, LAYER)
    loss, terms = jax.jit(objective)(pick(latents, 0), goal.mask[0], goal)
    assert set(terms) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_allclose(terms[name], weight * expected[name], rtol=1e-4)
    np.testing.assert_allclose(loss, sum(weights[n] * expected[n] for n in weights), rtol=1e-4)


def test_terms_of_weight_zero_are_left_out_and_do_not_count(small, goal):
    config = InversionConfig(l1=0, l2=2.0, perceptual=0, perceptual_tap=TAP)
    objective = inversion.make_objective(small.generator, small.backbone, config, LAYER)
    loss, terms = objective(pick(start(small), 1), goal.mask[1], goal)
    assert set(terms) == {"l2"}
    assert loss == terms["l2"] > 0


def test_sixty_adam_steps_lower_every_loss_and_the_step_compiles_once(small, goal, step):
    step.clear_cache()
    state, losses = optimise(start(small), goal, step)
    assert losses.shape == (STEPS, 2)
    assert (losses[-1] < 0.5 * losses[0]).all()
    assert step._cache_size() == 1
    assert int(state.step) == STEPS


def test_step_keeps_tree_shapes_and_dtypes(small, goal, step):
    state = inversion.init(start(small), inversion.default_optimizer(CONFIG))
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    after, info = step(state, goal)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before
    np.testing.assert_allclose(info.loss, sum(info.terms.values()), rtol=1e-6)


def test_best_loss_never_rises_and_best_codes_reproduce_it(small, goal, step, measure):
    state = inversion.init(start(small), inversion.default_optimizer(CONFIG))
    seen, bests = [], []
    for _ in range(25):
        state, info = step(state, goal)
        seen.append(np.asarray(info.loss))
        bests.append(np.asarray(state.best_loss))
    np.testing.assert_array_equal(bests, np.minimum.accumulate(seen))
    for i in range(2):
        again, _ = measure(pick(state.best, i), goal.mask[i], goal)
        np.testing.assert_allclose(again, bests[-1][i], rtol=1e-4)


def test_absurd_learning_rate_still_returns_the_best_codes_seen(small, goal, measure):
    config = InversionConfig(
        optimizer="sgd", learning_rate=1e6, perceptual_tap=TAP, l1=0.3, num_codes=COUNTS
    )
    state, losses = optimise(start(small), goal, make_step(small, config), steps=12, config=config)
    best = np.asarray(state.best_loss)
    np.testing.assert_array_equal(best, np.nanmin(losses, axis=0))
    assert (losses[-1] > best).any()  # it did wander off
    for i in range(2):
        again, _ = measure(pick(state.best, i), goal.mask[i], goal)
        np.testing.assert_allclose(again, best[i], rtol=1e-4)


def test_nan_in_one_hypothesis_leaves_the_other_bitwise_untouched(small, goal, step):
    latents = start(small)
    spoilt = latents._replace(codes=latents.codes.at[0].set(jnp.nan))
    expected, _ = optimise(latents, goal, step, steps=10)
    state, losses = optimise(spoilt, goal, step, steps=10)
    assert np.isnan(losses[:, 0]).all()
    assert np.isinf(state.best_loss[0])
    for ours, theirs in zip(
        jax.tree.leaves((state.best, state.latents, state.best_loss)),
        jax.tree.leaves((expected.best, expected.latents, expected.best_loss)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_all_nan_raises_naming_term_and_step_and_hands_over_the_state(small, goal, step):
    latents = start(small)
    latents = latents._replace(codes=jnp.full_like(latents.codes, jnp.nan))
    with pytest.raises(NonFiniteError, match=r"step 1: term 'l1' .*learning-rate") as caught:
        optimise(latents, goal, step)
    assert int(caught.value.state.step) == 1


def test_non_finite_perceptual_term_is_named_and_steps_count_from_the_start(small, goal, step):
    goal = goal._replace(warped_phi=jnp.full_like(goal.warped_phi, jnp.nan))
    state = inversion.init(start(small), inversion.default_optimizer(CONFIG))
    state = state._replace(step=jnp.int32(6))
    with pytest.raises(NonFiniteError, match="step 7: term 'perceptual'"):
        inversion.run(state, goal, step=step, num_steps=9)


def test_run_that_has_its_steps_does_no_more(small, goal, step):
    state = inversion.init(start(small), inversion.default_optimizer(CONFIG))
    state = state._replace(step=jnp.int32(STEPS))
    assert inversion.run(state, goal, step=step, num_steps=STEPS) is state


def test_inverting_a_picture_of_the_generator_gains_many_decibels(small, picture, render):
    found = inversion.invert_layer(
        jax.random.key(1),
        picture,
        small.generator,
        small.params,
        small.phi,
        LAYER,
        backbone=small.backbone,
        config=CONFIG,
        optimizer=inversion.default_optimizer(CONFIG),
    )
    latents = inversion.init_latents(
        jax.random.fold_in(jax.random.key(1), LAYER), small.generator, small.params, LAYER, COUNTS
    )
    images = render(latents, inversion.make_mask(COUNTS))
    theirs = np.float64(picture) * 2 - 1
    before = [oracle.psnr(oracle.block_mean(np.asarray(image), 2), theirs) for image in images]
    assert [(one.composing_layer, one.num_codes) for one in found] == [(LAYER, 2), (LAYER, 3)]
    for one, first in zip(found, before, strict=True):
        assert one.psnr > first + 5
        assert one.psnr > 14
        assert one.image.shape == (16, 16, 3)
        assert one.image.min() >= 0
        assert one.image.max() <= 1


def test_reported_psnr_and_loss_are_those_of_the_picture(small, picture):
    """A goal of the generator's own size is compared with the picture itself."""
    config = InversionConfig(num_codes=(2,), steps=3, perceptual=0, perceptual_tap=TAP)
    warped = np.repeat(np.repeat(np.asarray(picture), 2, axis=0), 2, axis=1)
    (one,) = inversion.invert_layer(
        jax.random.key(0),
        warped,
        small.generator,
        small.params,
        small.phi,
        LAYER,
        backbone=small.backbone,
        config=config,
        optimizer=inversion.default_optimizer(config),
    )
    expected = oracle.psnr(one.image * 2 - 1, warped * 2 - 1)
    np.testing.assert_allclose(one.psnr, expected, atol=1e-3)
    assert one.loss >= 4 * 10 ** (-one.psnr / 10) * (1 - 1e-5)  # the loss is not clipped


def test_warp_larger_than_the_generator_is_compared_at_the_generators_size(small):
    warped = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
    goal = make_goal(small, warped)
    expected = oracle.block_mean(warped, 2) * 2 - 1
    np.testing.assert_allclose(goal.warped, expected, rtol=0, atol=TOLERANCE)


def test_sgd_moves_latents_by_the_learning_rate_times_the_gradient(small, goal, measure):
    config = InversionConfig(
        optimizer="sgd", learning_rate=0.5, perceptual_tap=TAP, l1=0.3, num_codes=COUNTS
    )
    slope_of = jax.jit(jax.grad(lambda one, mask: measure(one, mask, goal)[0]))
    latents = start(small)
    state = inversion.init(latents, inversion.default_optimizer(config))
    state, _ = make_step(small, config)(state, goal)
    grad = slope_of(pick(latents, 1), goal.mask[1])
    for new, old, slope in zip(pick(state.latents, 1), pick(latents, 1), grad, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * slope, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("index", [0, 1])
def test_hypotheses_inverted_together_equal_each_alone(small, goal, step, index):
    latents = start(small)
    together, _ = optimise(latents, goal, step, steps=8)
    alone_goal = goal._replace(mask=goal.mask[index : index + 1])
    alone, _ = optimise(pick(latents, slice(index, index + 1)), alone_goal, step, steps=8)
    np.testing.assert_allclose(together.best_loss[index], alone.best_loss[0], rtol=1e-4)
    for ours, theirs in zip(together.best, alone.best, strict=True):
        np.testing.assert_allclose(ours[index], theirs[0], rtol=0, atol=1e-3)


def test_padding_a_hypothesis_changes_nothing(small, goal, step):
    latents = start(small)
    padded, _ = optimise(latents, goal, step, steps=8)
    short = Latents(latents.codes[:1, :2], latents.importance[:1, :2], latents.tail[:1])
    bare, _ = optimise(short, goal._replace(mask=goal.mask[:1, :2]), step, steps=8)
    np.testing.assert_allclose(padded.best_loss[0], bare.best_loss[0], rtol=1e-4)
    np.testing.assert_allclose(padded.best.codes[0, :2], bare.best.codes[0], rtol=0, atol=1e-3)


def test_same_key_gives_the_same_bits_and_another_key_other_codes(small, goal, step):
    first, _ = optimise(start(small), goal, step, steps=8)
    second, _ = optimise(start(small), goal, step, steps=8)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert jnp.abs(start(small, seed=1).codes - start(small).codes).max() > 0.1


def test_stylegan_goes_through_the_same_interface_and_its_tail_codes_move(picture):
    styled = make_small(stylegan(8, z_dim=6, w_dim=5, fmap_base=64, fmap_max=4))
    latents = start(styled, layer=2)
    assert latents.codes.shape == (2, 3, 5)
    assert latents.tail.shape == (2, 2, 5)  # layers 2 and 3
    goal = make_goal(styled, picture)
    state, losses = optimise(latents, goal, make_step(styled, CONFIG, layer=2), steps=20)
    assert (losses[-1] < 0.9 * losses[0]).all()
    assert jnp.abs(state.latents.tail - latents.tail).min(axis=(0, 2)).min() > 1e-4
    assert jnp.abs(state.best.tail[0] - state.best.tail[1]).max() > 1e-3


@pytest.mark.parametrize("layer", [0, 7])
def test_composing_layer_out_of_range_is_refused_with_the_accepted_range(small, layer):
    config = InversionConfig(composing_layers=(LAYER, layer))
    match = rf"--inversion-composing-layers={layer} .*accepted: \[1, 6\]"
    with pytest.raises(InputError, match=match):
        inversion.check_layers(small.generator, config)
    with pytest.raises(InputError, match="accepted: whole numbers from 1 to 6"):
        start(small, layer=layer)
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
        goal = Goal(double(tiny.params), double(tiny.phi), warped, features, jnp.ones((1, 3)))
        objective = inversion.make_objective(tiny.generator, tiny.backbone, config, 2)
        mask, tail = jnp.array([1.0, 1.0, 0.0]), jnp.zeros((0, 3))
        loss = jax.jit(lambda codes, a: objective(Latents(codes, a, tail), mask, goal)[0])
        args = (jnp.asarray(rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=(3, 3))))
        assert loss(*args).dtype == jnp.float64
        slopes = jax.grad(loss, argnums=(0, 1))(*args)
        assert all(jnp.abs(slope[:2]).max() > 1e-3 for slope in slopes)
        check_grads(loss, args, order=1, modes=["rev"], eps=1e-6, rtol=1e-5)
