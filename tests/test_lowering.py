"""Every program of a run lowers for GPUs and TPUs, on a machine that has neither.

Only shapes are used: nothing is compiled or computed.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from oeft_jax import composition, correspondence, inversion, loss_terms
from oeft_jax.config import CorrespondenceConfig, InversionConfig
from oeft_jax.models.backbone import backbone, generator

PLATFORMS = ("cuda", "tpu")
SIZES = {"resolution": 8, "z_dim": 6, "fmap_base": 64, "fmap_max": 8}
GENERATORS = {
    "pggan": SIZES,
    "stylegan": {**SIZES, "w_dim": 5},
    "stylegan2": {**SIZES, "w_dim": 5},
}
TAPS = ("relu1_1", "relu2_1")
NETWORK = backbone("vgg", {"depths": [1, 1], "widths": [4, 6]})
PHOTO = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
KEY_DATA = jax.ShapeDtypeStruct((2,), jnp.uint32)  # typed keys cannot be exported

each_generator = pytest.mark.parametrize("name", GENERATORS)


def shapes(function, *args):
    """What a function returns, as shapes."""
    return jax.eval_shape(function, *args)


def key():
    return jax.eval_shape(jax.random.key, 0)


def assert_lowers(function, *args):
    lowered = export.export(jax.jit(function), platforms=PLATFORMS)(*args)
    assert lowered.platforms == PLATFORMS
    assert "stablehlo.convolution" in lowered.mlir_module()


def made(name, **options):
    """(generator, shapes of its params, of two latents)."""
    network = generator(name, {**GENERATORS[name], **options})
    latents = jax.ShapeDtypeStruct((2, network.z_dim), jnp.float32)
    return network, shapes(network.init, key()), latents


@each_generator
def test_sampling_lowers(name):
    network, params, latents = made(name)
    assert_lowers(network.sample, params, latents)


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_sampling_with_random_noise_lowers(name):
    network, params, latents = made(name, noise_mode="random")

    def sample(params, latents, data):
        return network.sample(params, latents, noise_key=jax.random.wrap_key_data(data))

    assert_lowers(sample, params, latents, KEY_DATA)


@each_generator
def test_gradients_of_codes_importances_and_weights_lower(name):
    network, params, _ = made(name)
    plan = ((2, 1), (3, 2))
    latents = shapes(
        lambda key, params: tuple(
            composition.init_latents(key, network, params, *one) for one in plan
        ),
        key(),
        params,
    )

    def loss(latents, params):
        return jnp.mean(composition.generate(network, params, latents, plan) ** 2)

    assert_lowers(jax.grad(loss, argnums=(0, 1)), latents, params)


@each_generator
def test_step_of_the_inversion_lowers(name):
    network, params, _ = made(name)
    config = InversionConfig(composing_layers=(2, 3), num_codes=(1, 2), perceptual_tap=TAPS[-1])
    optimizer = inversion.default_optimizer(config)
    plan = composition.plan_of(config)

    def start(key, params, photo):
        phi = NETWORK.init(key, TAPS)
        goal = inversion.make_goal(photo[0], network, params, phi, backbone=NETWORK, config=config)
        return inversion.init(key, network, params, plan, optimizer), goal

    step = inversion.make_step(network, NETWORK, config, optimizer, plan)
    active = tuple(range(len(plan)))
    assert_lowers(
        lambda state, goal: step(state, goal, active), *shapes(start, key(), params, PHOTO)
    )


def begin(config):
    """Shapes of the state and the pair of a fine-tuning."""

    def start(key, source, target):
        weights = NETWORK.init(key, TAPS)
        return correspondence.init(
            weights,
            source,
            target,
            backbone=NETWORK,
            config=config,
            optimizer=correspondence.default_optimizer(config),
        )

    return shapes(start, key(), PHOTO, PHOTO)


def settings(**changes):
    return CorrespondenceConfig(
        image_size=32,
        grid=8,
        taps=TAPS,
        gram_taps=TAPS,
        contextual_taps=TAPS[1:],
        num_queries=16,
        lambda_cycle=0.1,
        lambda_anchor=0.1,
        **changes,
    )


@pytest.mark.parametrize("changes", [{}, {"warp": "pooled", "shared_weights": True}, {"tile": 16}])
def test_step_of_the_fine_tuning_lowers(changes):
    config = settings(**changes)
    losses = loss_terms.default_losses(config)
    optimizer = correspondence.default_optimizer(config)
    step = correspondence.make_step(NETWORK, config, losses, optimizer)

    def with_key_data(data, state, pair):
        return step(jax.random.wrap_key_data(data), state, pair)

    assert_lowers(with_key_data, KEY_DATA, *begin(config))


@pytest.mark.parametrize("changes", [{}, {"tile": 16}])
def test_warp_lowers(changes):
    config = settings(**changes)
    state, pair = begin(config)
    assert_lowers(correspondence.make_warp(NETWORK, config), state.params, pair)
