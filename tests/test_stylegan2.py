"""StyleGAN2: parity with PyTorch, the cut with its picture, noise, inversion in W and in W+."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from oeft_jax import inversion
from oeft_jax._checks import InputError
from oeft_jax.composition import generate
from oeft_jax.config import InversionConfig
from oeft_jax.models import layers
from oeft_jax.models.backbone import backbone
from oeft_jax.models.backbone import generator as generator_of
from oeft_jax.models.stylegan import stylegan
from oeft_jax.models.stylegan2 import StyleGAN2, stylegan2

Z_DIM, W_DIM = 12, 10
TOLERANCE = 1e-4  # float32; images have a deviation of about 1
SMALL = {"z_dim": Z_DIM, "w_dim": W_DIM, "fmap_base": 64, "fmap_max": 8}  # 8, 8, then 4 at 16


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    import torch_stylegan2

    torch.set_num_threads(1)
    return torch_stylegan2


def random_params(generator, seed=0):
    """No zeros, so that biases, noise and the mean w count."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names = [part.key for part in path]
        std = 0.3 if names[-1] in ("bias", "noise_strength", "noise_weight", "w_avg") else 1.0
        std *= 100.0 if names[0] == "mapping" else 1.0
        is_scale = names[-2:] == ["style", "bias"] and generator.name == "stylegan2"
        return jnp.asarray(rng.normal(float(is_scale), std, leaf.shape), jnp.float32)

    shapes = jax.eval_shape(generator.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def small():
    """(generator of 16 x 16 without truncation, its params): layers 1 to 7, six codes."""
    generator = stylegan2(16, truncation_psi=1.0, **SMALL)
    return generator, random_params(generator)


def latents(num=2):
    return np.random.default_rng(1).normal(size=(num, Z_DIM)).astype(np.float32)


def codes_of(*shape):
    return jnp.asarray(np.random.default_rng(2).normal(size=(*shape, W_DIM)), jnp.float32)


def params_of(state):
    """Params from the oracle's tables, transposed by hand."""

    def styled(layer, *, rotate=False):
        kernel = layer["kernel"].flip(2, 3) if rotate else layer["kernel"]
        return {
            "kernel": kernel.permute(2, 3, 1, 0).numpy(),
            "bias": layer["bias"].numpy(),
            "style": {"kernel": layer["style"].T.numpy(), "bias": layer["style_bias"].numpy()},
        }

    params = {
        "mapping": {
            f"dense{i}": {"kernel": dense["weight"].T.numpy(), "bias": dense["bias"].numpy()}
            for i, dense in enumerate(state["mapping"])
        },
        "w_avg": state["w_avg"].numpy(),
        "const": state["const"].permute(1, 2, 0)[None].numpy(),
    }
    for n, conv in enumerate(state["convs"]):
        params[f"layer{n + 1}"] = styled(conv, rotate=n % 2 == 1) | {
            "noise": conv["noise"][None, :, :, None].numpy(),
            "noise_strength": conv["strength"].numpy(),
        }
    for b, rgb in enumerate(state["rgbs"]):
        params[f"to_rgb{b}"] = styled(rgb)
    return params


def assert_same_images(ours, theirs):
    theirs = np.transpose(theirs.numpy(), (0, 2, 3, 1))
    assert 0.3 < theirs.std() < 5  # so that the tolerance means something
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=TOLERANCE)


# the network


@pytest.mark.parametrize(
    ("resolution", "base", "depth"), [(8, 64, 8), (32, 256, 2), (64, 512, 8), (256, 1024, 8)]
)
@pytest.mark.parametrize("noise_mode", ["stored", "none"])
def test_images_equal_pytorch_with_and_without_truncation(
    reference, resolution, base, depth, noise_mode
):
    import torch

    sizes = {"z_dim": Z_DIM, "w_dim": W_DIM, "base": base, "cap": 8, "depth": depth}
    state = reference.stylegan2_state(resolution, **sizes)
    model = StyleGAN2(resolution, Z_DIM, W_DIM, base, 8, noise_mode, depth)
    sample = jax.jit(model.apply)  # psi and layers are traced, so this compiles once
    for psi, num in ((1.0, 18), (0.5, 18), (0.7, 3)):
        images = sample(
            {"params": params_of(state)}, latents(), truncation_psi=psi, truncation_layers=num
        )
        expected = reference.stylegan2_images(
            state,
            torch.from_numpy(latents()),
            with_noise=noise_mode == "stored",
            psi=psi,
            truncated_codes=num,
        )
        assert_same_images(images, expected)


def test_codes_style_the_layers_that_they_style_in_pytorch(reference):
    """Six different codes: those of both ends of a resolution are easily confused."""
    import torch

    sizes = {"z_dim": Z_DIM, "w_dim": W_DIM, "base": 64, "cap": 8}
    state, codes = reference.stylegan2_state(16, **sizes), codes_of(2, 6)
    expected = reference.stylegan2_synthesis(
        state, torch.from_numpy(np.array(codes)), with_noise=True
    )
    model, variables = StyleGAN2(16, Z_DIM, W_DIM, 64, 8), {"params": params_of(state)}
    synthesise = jax.jit(partial(model.apply, method="synthesise"))
    assert_same_images(synthesise(variables, codes), expected)
    generator = stylegan2(16, **SMALL)
    head, tail = (jax.jit(partial(f, composing_layer=1)) for f in (generator.head, generator.tail))
    start = head(variables["params"], codes[:, 0])
    assert_same_images(tail(variables["params"], start, codes), expected)


def test_codes_start_at_the_mapping_truncated_at_psi(reference):
    import torch

    state = reference.stylegan2_state(8, z_dim=Z_DIM, w_dim=W_DIM, base=64, cap=8)
    generator, key = stylegan2(8, **SMALL), jax.random.key(3)
    codes = generator.init_codes(key, params_of(state), 4)
    w = reference.stylegan2_w(state, torch.from_numpy(np.array(jax.random.normal(key, (4, 12)))))
    expected = state["w_avg"] + 0.5 * (w - state["w_avg"])
    np.testing.assert_allclose(codes, expected, rtol=0, atol=TOLERANCE)
    tail_codes = generator.init_tail_codes(params_of(state), 1)
    assert tail_codes.shape == (4, W_DIM)
    assert (tail_codes == state["w_avg"].numpy()[None]).all()


@pytest.mark.parametrize(("resolution", "published"), [(256, 30_034_338), (1024, 30_370_060)])
def test_full_network_has_as_many_weights_as_published(resolution, published):
    shapes = jax.eval_shape(stylegan2(resolution).init, jax.random.key(0))
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    kept = [leaf.size for path, leaf in paths if path[-1].key not in ("noise", "w_avg")]
    assert sum(kept) == published


# up-convolution and filter


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 1), (1, 4, 4)])
def test_up_convolution_and_its_gradients_are_those_of_a_dilated_one(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 16

    def dilated(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        wide = lax.conv_general_dilated(
            x, kernel, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=dims
        )
        fir = jnp.tile(taps[:, :, None, None], (1, 1, 1, 4))
        return lax.conv_general_dilated(
            wide, fir, (1, 1), [(1, 1)] * 2, dimension_numbers=dims, feature_group_count=4
        )

    def all_of(function):
        loss = jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k))), argnums=(0, 1))
        return jax.jit(lambda x, k: (function(x, k), *loss(x, k)))

    ours, theirs = all_of(layers.conv_up)(x, kernel), all_of(dilated)(x, kernel)
    assert ours[0].shape == (shape[0], 2 * shape[1], 2 * shape[2], 4)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def test_full_convolution_gradients_in_a_loop_are_those_outside():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 3, 2)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(2, 1, 2, 3)), jnp.float32)
    grad = jax.grad(lambda x, k: jnp.sum(jnp.sin(layers.conv_full(x, k))), argnums=(0, 1))

    def body(_, state):
        gx, gk = grad(*state)
        return state[0] - 0.1 * gx, state[1] - 0.1 * gk

    found = jax.jit(lambda *state: lax.fori_loop(0, 3, body, state))(x, kernel)
    expected = (x, kernel)
    for _ in range(3):
        expected = body(0, expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_filtered_upsampling_keeps_a_flat_map_inside_and_fades_at_the_border():
    x = jnp.ones((1, 4, 5, 2))
    up = layers.upsample_filtered(x)
    assert up.shape == (1, 8, 10, 2)
    np.testing.assert_array_equal(up[:, 1:-1, 1:-1], 1)
    np.testing.assert_array_equal(up[:, 0, 1:-1], 0.75)


# the cut


def test_tail_of_head_is_the_whole_network_at_every_composing_layer():
    generator = stylegan2(8, truncation_psi=1.0, **SMALL)
    params = random_params(generator)
    w = StyleGAN2(8, Z_DIM, W_DIM, 64, 8).apply({"params": params}, latents(), method="map")
    expected = jax.jit(generator.sample)(params, latents())
    head = jax.jit(generator.head, static_argnums=2)
    tail = jax.jit(generator.tail, static_argnums=3)
    assert generator.num_layers == 5
    for k in range(1, 6):
        tail_codes = jnp.repeat(w[:, None], 5 - k, axis=1)
        images = tail(params, head(params, w, k), tail_codes, k)
        np.testing.assert_allclose(images, expected, rtol=0, atol=TOLERANCE)


def test_features_and_picture_at_each_composing_layer_have_the_same_size(small):
    generator, params = small
    sizes, channels = [4, 4, 8, 8, 16, 16, 16], [11, 11, 11, 11, 7, 7, 3]
    assert generator.num_layers == len(sizes)
    for k, (size, c) in enumerate(zip(sizes, channels, strict=True), 1):
        features = jax.eval_shape(lambda p, w, k=k: generator.head(p, w, k), params, codes_of(2))
        assert features.shape == (2, size, size, c)
        assert generator.channels(k) == c
        assert generator.num_tail_codes(k) == 7 - k


@pytest.mark.parametrize("layer", [1, 4, 5, 7])
def test_identical_codes_with_importances_summing_to_one_give_the_single_code_image(small, layer):
    generator, params = small
    code, tail_codes = codes_of(1), codes_of(generator.num_tail_codes(layer))
    shares = jnp.array([0.5, 0.8, -0.3])[:, None]
    importance = jnp.repeat(shares, generator.channels(layer), axis=1)
    several = inversion.Latents(jnp.repeat(code, 3, axis=0), importance, tail_codes)
    one = inversion.Latents(code, jnp.ones_like(importance[:1]), tail_codes)
    plan = ((layer, 1), (layer, 3))
    make = jax.jit(lambda latents: generate(generator, params, latents, plan))
    single, images = make((one, several))
    np.testing.assert_allclose(images, single, rtol=0, atol=TOLERANCE)


def test_every_layer_follows_its_own_code_and_the_first_has_none(small):
    generator, params = small
    synthesise = jax.jit(lambda codes: generator.tail(params, start, codes, 1))
    start, codes = generator.head(params, codes_of(1), 1), codes_of(1, 6)
    assert (start == generator.head(params, 2 * codes_of(1), 1)).all()
    base = synthesise(codes)
    for layer in range(6):
        assert jnp.abs(synthesise(codes.at[:, layer].add(1.0)) - base).max() > 1e-2


def test_layers_of_the_full_network_have_the_sizes_of_the_other_generators():
    generator = stylegan2(1024)
    assert generator.num_layers == 19
    features = [512] * 10 + [256] * 2 + [128] * 2 + [64] * 2 + [32] * 2
    assert [generator.channels(k) for k in range(1, 20)] == [c + 3 for c in features] + [3]


def test_gradients_equal_finite_differences():
    generator = stylegan2(8, z_dim=4, w_dim=5, fmap_base=16, fmap_max=3)
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float64), random_params(generator)
        )
        latents = inversion.Latents(
            *(jnp.asarray(rng.normal(size=shape)) for shape in ((2, 5), (2, 5), (2, 5)))
        )

        @jax.jit
        def loss(latents):
            image = generate(generator, params, (latents,), ((3, 2),))
            return jnp.mean((image - 0.3) ** 2)

        assert loss(latents).dtype == jnp.float64
        check_grads(loss, (latents,), order=1, modes=["rev"], eps=1e-6, rtol=1e-5)


def test_gradients_are_finite_for_zero_codes_and_importances(small):
    generator, params = small
    zeros = inversion.Latents(
        jnp.zeros((2, W_DIM)), jnp.zeros((2, generator.channels(3))), jnp.zeros((4, W_DIM))
    )

    @jax.jit
    @jax.grad
    def gradients(latents):
        return jnp.mean(generate(generator, params, (latents,), ((3, 2),)) ** 2)

    assert all(jnp.isfinite(leaf).all() for leaf in gradients(zeros))


# noise


@pytest.mark.parametrize("make", [stylegan, stylegan2])
def test_random_noise_is_fresh_for_each_image_and_repeats_with_its_key(make):
    generator = make(8, noise_mode="random", **SMALL)
    params = random_params(generator)
    z, sample = jnp.repeat(latents(1), 2, axis=0), jax.jit(generator.sample)
    images = sample(params, z, noise_key=jax.random.key(0))
    assert jnp.abs(images[0] - images[1]).max() > 1e-2
    np.testing.assert_array_equal(images, sample(params, z, noise_key=jax.random.key(0)))
    assert jnp.abs(images - sample(params, z, noise_key=jax.random.key(1))).max() > 1e-2


@pytest.mark.parametrize("make", [stylegan, stylegan2])
def test_layers_draw_different_noise_of_unit_variance(make):
    generator = make(16, noise_mode="random", **SMALL)
    params, normal = random_params(generator), jax.random.normal

    @jax.jit
    def drawn(params, z, key):
        draws = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                jax.random, "normal", lambda *args: draws.append(normal(*args)) or draws[-1]
            )
            generator.sample(params, z, noise_key=key)
        return draws

    draws = drawn(params, latents(2), jax.random.key(0))
    first, second = (noise for noise in draws if noise.shape == (2, 16, 16, 1))
    assert jnp.abs(first - second).max() > 1
    assert abs(float(first.std()) - 1) < 0.15


@pytest.mark.parametrize("make", [stylegan, stylegan2])
def test_random_noise_without_a_key_or_in_an_inversion_is_refused(make):
    generator = make(8, noise_mode="random", **SMALL)
    params = random_params(generator)
    with pytest.raises(InputError, match="needs noise_key; accepted: "):
        generator.sample(params, latents())
    with pytest.raises(InputError, match="cannot be inverted; accepted: none, stored"):
        generator.head(params, codes_of(2), 1)


def test_without_noise_weights_every_mode_gives_the_same_image():
    params = random_params(stylegan2(8, **SMALL))
    for name in [name for name in params if name.startswith("layer")]:
        params[name] = params[name] | {"noise_strength": jnp.zeros(())}
    own = {"xla_cpu_use_fusion_emitters": True}  # equal bits of three programs: of XLA's own loops
    images = [
        jax.jit(stylegan2(8, noise_mode=mode, **SMALL).sample, compiler_options=own)(
            params, latents(), noise_key=key
        )
        for mode, key in (("stored", None), ("none", None), ("random", jax.random.key(0)))
    ]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


@pytest.mark.parametrize("mode", ["stored", "random"])
def test_fresh_weights_give_finite_images_that_are_not_flat(mode):
    generator = stylegan2(8, noise_mode=mode, **SMALL)
    params = generator.init(jax.random.key(0))
    images = jax.jit(generator.sample)(params, latents(), noise_key=jax.random.key(1))
    assert jnp.isfinite(images).all()
    assert images.std(axis=(1, 2)).min() > 0.01


# inversion


@pytest.mark.parametrize("make", [stylegan, stylegan2])
@pytest.mark.parametrize(("space", "drop"), [("W", 1e-8), ("W+", 3e-3), ("several", 3e-3)])
def test_inversion_recovers_the_image_of_a_known_w(make, space, drop):
    """In W the code is found exactly, so the loss falls to rounding errors."""
    generator = make(8, **SMALL)
    params = random_params(generator)
    layer, num = {"W": (generator.num_layers, 1), "W+": (1, 1), "several": (3, 3)}[space]
    w = generator.init_codes(jax.random.key(100), params, 1)
    last = generator.num_layers
    known = inversion.Latents(w, jnp.ones((1, generator.channels(last))), jnp.zeros((0, W_DIM)))
    [target] = generate(generator, params, (known,), ((last, 1),)) * 0.5 + 0.5
    network, tap = backbone("vgg", {"depths": [1], "widths": [2]}), "relu1_1"
    config = InversionConfig(
        composing_layers=(layer,),
        num_codes=(num,),
        steps=300,
        perceptual=0.0,
        perceptual_tap=tap,
        learning_rate=0.1,
    )
    losses = []
    [found] = inversion.invert(
        jax.random.key(0),
        target,
        generator,
        params,
        network.init(jax.random.key(0), (tap,)),
        backbone=network,
        config=config,
        optimizer=inversion.default_optimizer(config),
        on_step=lambda number, state, row: losses.append(float(row["loss"][0])),
    )
    assert losses[0] > 0.01
    assert found.loss < drop * losses[0]
    assert np.abs(found.image - jnp.clip(target, 0, 1)).max() < 0.5 * np.sqrt(drop)


# errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "resolution=48 .*accepted: 8, 16, .* 1024"),
        ({"fmap_base": 32}, "fmap_base=32 .*accepted: "),
        ({"w_dim": 0}, "w_dim=0 .*accepted: "),
        ({"mapping_depth": 0}, "mapping_depth=0 .*accepted: "),
        ({"noise_mode": "fresh"}, "noise_mode='fresh' .*accepted: none, random, stored"),
        ({"truncation_psi": 1.5}, "truncation_psi=1.5 .*accepted: "),
    ],
)
def test_option_out_of_range_is_refused_with_the_accepted_values(options, message):
    with pytest.raises(InputError, match=message):
        generator_of("stylegan2", {"resolution": 64, **options})


@pytest.mark.parametrize("composing_layer", [0, 8, 2.0, True])
def test_composing_layer_outside_the_network_is_refused(small, composing_layer):
    generator, params = small
    for call in (
        lambda: generator.channels(composing_layer),
        lambda: generator.init_tail_codes(params, composing_layer),
        lambda: generator.head(params, codes_of(1), composing_layer),
        lambda: generator.tail(params, jnp.ones((1, 4, 4, 11)), codes_of(1, 1), composing_layer),
    ):
        with pytest.raises(InputError, match="accepted: whole numbers from 1 to 7"):
            call()
