"""The generators: parity with PyTorch, cutting, what inversion relies on, gradients, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from oeft_jax._checks import InputError
from oeft_jax.models.generator import Generator
from oeft_jax.models.pggan import PGGAN, pggan
from oeft_jax.models.stylegan import StyleGAN, stylegan

Z_DIM, W_DIM = 12, 10
# float32; images have a deviation of about 1. Reordered sums differ by 1e-7, and PixelNorm
# magnifies that where the few channels of these small networks happen to be all near zero.
TOLERANCE = 1e-4

MAKERS = {
    "pggan": lambda resolution, **sizes: pggan(resolution, z_dim=Z_DIM, **sizes),
    "stylegan": lambda resolution, **sizes: stylegan(resolution, z_dim=Z_DIM, w_dim=W_DIM, **sizes),
}
SMALL = {"fmap_base": 64, "fmap_max": 8}  # 8 channels at 4 and 8, then 4 at 16


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    import torch_generators

    torch.set_num_threads(1)
    return torch_generators


def random_params(generator: Generator, seed: int = 0) -> dict:
    """Weights with no zeros in them: fresh ones hide biases, noise and the mean w."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        in_mapping = path[0].key == "mapping"  # kept raw there, 100 times larger
        std = (100.0 if in_mapping else 1.0) * (0.2 if path[-1].key == "bias" else 1.0)
        return jnp.asarray(rng.normal(0, std, leaf.shape), jnp.float32)

    shapes = jax.eval_shape(generator.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module", params=sorted(MAKERS))
def small(request):
    """(generator at 16 x 16 with six layers, its params)."""
    generator = MAKERS[request.param](16, **SMALL)
    return generator, random_params(generator)


def compose(generator, params, codes, importance, tail_codes, composing_layer):
    """One image from several codes: features weighted per channel and added (mGANprior Eq. 2)."""
    features = generator.head(params, codes, composing_layer)
    features = jnp.einsum("khwc,kc->hwc", features, importance)[None]
    return generator.tail(params, features, tail_codes[None], composing_layer)


def conv_kernel(weight):
    return np.transpose(weight.numpy(), (2, 3, 1, 0))


def pggan_params(state, resolution):
    first = np.transpose(state["layer0.conv.weight"].numpy(), (1, 2, 3, 0))[:, ::-1, ::-1]
    params = {"layer0": {"kernel": first, "bias": state["layer0.wscale.bias"].numpy()}}
    last = 2 * (resolution.bit_length() - 2) - 1
    names = {f"layer{i}": f"layer{i}" for i in range(1, last + 1)}
    for ours, theirs in (names | {"output": f"output{last // 2}"}).items():
        kernel = conv_kernel(state[f"{theirs}.conv.weight"])
        params[ours] = {"kernel": kernel, "bias": state[f"{theirs}.wscale.bias"].numpy()}
    return params


def dense_params(state, name):
    return {
        "kernel": state[f"{name}.fc.weight"].numpy().T,
        "bias": state[f"{name}.wscale.bias"].numpy(),
    }


def stylegan_layer_params(state, name):
    epilogue = f"{name}.epilogue"
    layer = {
        "noise": np.transpose(state[f"{epilogue}.apply_noise.noise"].numpy(), (0, 2, 3, 1)),
        "noise_weight": state[f"{epilogue}.apply_noise.weight"].numpy(),
        "bias": state[f"{epilogue}.bias"].numpy(),
        "style": dense_params(state, f"{epilogue}.style_mod.dense"),
    }
    if f"{name}.conv.weight" in state:
        layer["kernel"] = conv_kernel(state[f"{name}.conv.weight"])
    elif f"{name}.weight" in state:  # fused: rotated by 180 degrees
        layer["kernel"] = state[f"{name}.weight"].numpy()[::-1, ::-1]
    return layer


def stylegan_params(state, resolution):
    num_layers = 2 * (resolution.bit_length() - 2)
    output = f"synthesis.output{num_layers // 2 - 1}"
    return {
        "mapping": {f"dense{i}": dense_params(state, f"mapping.dense{i}") for i in range(8)},
        "w_avg": state["truncation.w_avg"].numpy(),
        "const": np.transpose(state["synthesis.layer0.const"].numpy(), (0, 2, 3, 1)),
        "output": {
            "kernel": conv_kernel(state[f"{output}.conv.weight"]),
            "bias": state[f"{output}.bias"].numpy(),
        },
    } | {
        f"layer{i}": stylegan_layer_params(state, f"synthesis.layer{i}") for i in range(num_layers)
    }


def assert_same_images(ours, theirs):
    theirs = np.transpose(theirs.numpy(), (0, 2, 3, 1))
    assert 0.3 < theirs.std() < 3  # so that the tolerance means something
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=TOLERANCE)


def latents(num=2):
    return np.random.default_rng(1).normal(size=(num, Z_DIM)).astype(np.float32)


@pytest.mark.parametrize(("resolution", "base"), [(8, 128), (32, 256), (64, 512)])
def test_pggan_images_equal_pytorch(reference, resolution, base):
    import torch

    state = reference.pggan_state(resolution, z_dim=Z_DIM, base=base, cap=16)
    expected = reference.pggan_images(state, torch.from_numpy(latents()), resolution)
    model = PGGAN(resolution, Z_DIM, base, 16)
    images = jax.jit(model.apply)({"params": pggan_params(state, resolution)}, latents())
    assert_same_images(images, expected)


@pytest.mark.parametrize(
    ("resolution", "base", "noise_mode"),
    [
        (8, 128, "stored"),
        (8, 128, "none"),
        (32, 256, "stored"),
        (64, 512, "none"),
        (256, 1024, "stored"),  # its last two up-convolutions are fused in PyTorch
        (256, 1024, "none"),
    ],
)
def test_stylegan_images_equal_pytorch_with_and_without_truncation(
    reference, resolution, base, noise_mode
):
    import torch

    sizes = {"z_dim": Z_DIM, "w_dim": W_DIM, "base": base, "cap": 8}
    state = reference.stylegan_state(resolution, **sizes)
    assert ("synthesis.layer12.weight" in state) == (resolution == 256)
    params = stylegan_params(state, resolution)
    model = StyleGAN(resolution, Z_DIM, W_DIM, base, 8, noise_mode)
    sample = jax.jit(model.apply)  # psi and layers are traced, so this compiles once
    for psi, layers in ((None, 8), (0.7, 8), (0.5, 3)):
        images = sample(
            {"params": params},
            latents(),
            truncation_psi=1.0 if psi is None else psi,
            truncation_layers=layers,
        )
        expected = reference.stylegan_images(
            state,
            torch.from_numpy(latents()),
            resolution,
            with_noise=noise_mode == "stored",
            psi=psi,
            truncated_layers=layers,
        )
        assert_same_images(images, expected)


def test_stylegan_starts_codes_at_the_mapping_truncated_at_psi(reference):
    import torch

    state = reference.stylegan_state(8, z_dim=Z_DIM, w_dim=W_DIM, base=64, cap=8)
    generator, key = MAKERS["stylegan"](8, **SMALL), jax.random.key(3)
    codes = generator.init_codes(key, stylegan_params(state, 8), 4)
    z = torch.from_numpy(np.array(jax.random.normal(key, (4, Z_DIM))))
    w, w_avg = reference.stylegan_w(state, z), state["truncation.w_avg"]
    np.testing.assert_allclose(codes, w_avg + 0.7 * (w - w_avg), rtol=0, atol=TOLERANCE)


def cut(generator):
    """`head` and `tail`, compiled for each composing layer."""
    return jax.jit(generator.head, static_argnums=2), jax.jit(generator.tail, static_argnums=3)


def test_pggan_tail_of_head_is_the_whole_network_at_every_composing_layer():
    generator = MAKERS["pggan"](16, **SMALL)
    params = random_params(generator)
    expected, head, tail = jax.jit(generator.sample)(params, latents()), *cut(generator)
    assert generator.num_layers == 6
    for k in range(1, generator.num_layers + 1):
        features = head(params, latents(), k)
        size = 4 * 2 ** ((k - 1) // 2)
        assert features.shape == (2, size, size, generator.channels(k))
        no_codes = jnp.zeros((2, generator.num_tail_codes(k), Z_DIM))
        images = tail(params, features, no_codes, k)
        np.testing.assert_allclose(images, expected, rtol=0, atol=TOLERANCE)


def test_stylegan_tail_of_head_is_the_whole_network_at_every_composing_layer():
    generator = stylegan(16, z_dim=Z_DIM, w_dim=W_DIM, truncation_psi=1.0, **SMALL)
    params = random_params(generator)
    model = StyleGAN(16, Z_DIM, W_DIM, 64, 8)
    w = model.apply({"params": params}, latents(), method="map")
    expected, head, tail = jax.jit(generator.sample)(params, latents()), *cut(generator)
    for k in range(1, generator.num_layers + 1):
        features = head(params, w, k)
        size = 4 * 2 ** ((k - 1) // 2)
        assert features.shape == (2, size, size, generator.channels(k))
        tail_codes = jnp.repeat(w[:, None], generator.num_tail_codes(k), axis=1)
        assert tail_codes.shape[1] == generator.num_layers - k
        images = tail(params, features, tail_codes, k)
        np.testing.assert_allclose(images, expected, rtol=0, atol=TOLERANCE)


def test_stylegan_tail_layers_follow_their_own_codes():
    generator = MAKERS["stylegan"](16, **SMALL)
    params = random_params(generator)
    features = generator.head(params, generator.init_codes(jax.random.key(0), params, 1), 4)
    tail_codes = generator.init_tail_codes(params, 4)[None]
    tail = jax.jit(generator.tail, static_argnums=3)
    base = tail(params, features, tail_codes, 4)
    images = [tail(params, features, tail_codes.at[:, layer].add(1.0), 4) for layer in range(2)]
    assert jnp.abs(images[0] - base).max() > 1e-2
    assert jnp.abs(images[1] - base).max() > 1e-2
    assert jnp.abs(images[0] - images[1]).max() > 1e-2


def test_start_values_have_the_declared_shapes(small):
    generator, params = small
    codes = generator.init_codes(jax.random.key(0), params, 5)
    assert codes.shape == (5, generator.code_dim)
    assert jnp.abs(codes[0] - codes[1]).max() > 1e-3
    for k in (1, generator.num_layers):
        tail_codes = generator.init_tail_codes(params, k)
        assert tail_codes.shape == (generator.num_tail_codes(k), generator.code_dim)


def test_stylegan_tail_codes_start_at_the_mean_w():
    generator = MAKERS["stylegan"](8, **SMALL)
    params = random_params(generator)
    assert (generator.init_tail_codes(params, 1) == params["w_avg"][None]).all()


@pytest.mark.parametrize("composing_layer", [1, 4])
def test_identical_codes_with_importances_summing_to_one_give_the_single_code_image(
    small, composing_layer
):
    generator, params = small
    code = generator.init_codes(jax.random.key(0), params, 1)
    tail_codes = generator.init_tail_codes(params, composing_layer)
    shares = jnp.array([0.5, 0.8, -0.3])[:, None]
    importance = jnp.repeat(shares, generator.channels(composing_layer), axis=1)
    codes = jnp.repeat(code, 3, axis=0)
    images = compose(generator, params, codes, importance, tail_codes, composing_layer)
    single = compose(
        generator, params, code, jnp.ones_like(importance[:1]), tail_codes, composing_layer
    )
    np.testing.assert_allclose(images, single, rtol=0, atol=TOLERANCE)


def test_pggan_image_ignores_common_scale_of_importances_and_scale_of_each_code():
    generator = MAKERS["pggan"](16, **SMALL)
    params = random_params(generator)
    codes = generator.init_codes(jax.random.key(0), params, 3)
    importance = jax.random.uniform(jax.random.key(1), (3, generator.channels(4)), minval=0.1)
    none = generator.init_tail_codes(params, 4)
    expected = compose(generator, params, codes, importance, none, 4)
    scales = jnp.array([0.5, 2.0, 9.0])[:, None]
    for scaled_codes, scaled_importance in (
        (codes, 7.0 * importance),
        (scales * codes, importance),
    ):
        images = compose(generator, params, scaled_codes, scaled_importance, none, 4)
        np.testing.assert_allclose(images, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_gradients_of_codes_importances_and_tail_codes_equal_finite_differences(name):
    generator = MAKERS[name](8, fmap_base=16, fmap_max=4)
    rng = np.random.default_rng(2)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float64)

    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float64), random_params(generator)
        )
        codes, importance = draw(2, generator.code_dim), draw(2, generator.channels(2))
        tail_codes = draw(generator.num_tail_codes(2), generator.code_dim)

        @jax.jit
        def loss(params, codes, importance, tail_codes):
            images = compose(generator, params, codes, importance, tail_codes, 2)
            return jnp.mean(jnp.square(images - 0.3))

        assert loss(params, codes, importance, tail_codes).dtype == jnp.float64
        args = (codes, importance, tail_codes)
        check_grads(partial(loss, params), args, order=1, modes=["rev"], eps=1e-6, rtol=1e-5)


def test_gradients_are_finite_for_zero_codes_and_importances(small):
    generator, params = small
    codes = jnp.zeros((2, generator.code_dim))
    importance = jnp.zeros((2, generator.channels(3)))
    tail_codes = jnp.zeros((generator.num_tail_codes(3), generator.code_dim))

    @jax.jit
    @jax.grad
    def gradients(args, params):
        return jnp.mean(compose(generator, params, *args, 3) ** 2)

    for gradient in gradients((codes, importance, tail_codes), params):
        assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_fresh_weights_give_finite_images_that_are_not_flat(name):
    generator = MAKERS[name](8, **SMALL)
    params = generator.init(jax.random.key(0))
    images = jax.jit(generator.sample)(params, latents())
    assert images.shape == (2, 8, 8, 3)
    assert jnp.isfinite(images).all()
    assert images.std(axis=(1, 2)).min() > 0.01


def test_pggan_256_has_as_many_weights_as_published():
    shapes = jax.eval_shape(pggan(256).init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    lower_outputs = sum(3 * c + 3 for c in (512, 512, 512, 512, 256, 128))
    assert count == 23_044_310 - lower_outputs - 1  # 1: the level of detail


def test_composing_layers_have_the_published_channels():
    expected = [512] * 8 + [256] * 2 + [128] * 2 + [64] * 2 + [32] * 2 + [16] * 2
    for generator in (pggan(1024), stylegan(1024)):
        assert generator.num_layers == 18
        assert [generator.channels(k) for k in range(1, 19)] == expected


@pytest.mark.parametrize("make", [pggan, stylegan])
@pytest.mark.parametrize("resolution", [4, 48, 2048, 64.0, "64"])
def test_unsupported_resolution_is_refused_with_the_accepted_ones(make, resolution):
    with pytest.raises(InputError, match=r"resolution=.*accepted: 8, 16, .* 1024"):
        make(resolution)


@pytest.mark.parametrize("composing_layer", [0, 7, -1, 2.0, True])
def test_composing_layer_outside_the_network_is_refused_with_the_accepted_range(
    small, composing_layer
):
    generator, params = small
    codes = jnp.ones((1, generator.code_dim))
    features, tail_codes = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 1, generator.code_dim))
    for call in (
        lambda: generator.channels(composing_layer),
        lambda: generator.num_tail_codes(composing_layer),
        lambda: generator.init_tail_codes(params, composing_layer),
        lambda: generator.head(params, codes, composing_layer),
        lambda: generator.tail(params, features, tail_codes[:, :0], composing_layer),
    ):
        with pytest.raises(InputError, match="accepted: whole numbers from 1 to 6"):
            call()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (pggan, {"fmap_base": 32}, "fmap_base=32 .*accepted: "),
        (pggan, {"fmap_max": 0}, "fmap_max=0 .*accepted: "),
        (pggan, {"z_dim": 0}, "z_dim=0 .*accepted: "),
        (stylegan, {"w_dim": 0}, "w_dim=0 .*accepted: "),
        (stylegan, {"noise_mode": "fresh"}, "noise_mode='fresh' .*accepted: none, random, stored"),
        (stylegan, {"truncation_psi": 1.5}, "truncation_psi=1.5 .*accepted: "),
        (stylegan, {"truncation_layers": -1}, "truncation_layers=-1 .*accepted: "),
    ],
)
def test_option_out_of_range_is_refused_with_the_accepted_values(make, options, message):
    with pytest.raises(InputError, match=message):
        make(64, **options)
