"""Inception against an independent PyTorch one with random weights and statistics."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import converted, images_of, nchw, nhwc

from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone
from oeft_jax.models.inception import FID_SIZE, TAPS, Inception, resize_bilinear

PARITY = 1e-4  # of a tap's deviation; float32 through 48 convolutions in two libraries
NAMES = {"fid": "inception_fid", "torchvision": "inception_torchvision"}
IMAGE = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(2)
    return module


@pytest.fixture(scope="module")
def pairs(torch):
    """variant -> (PyTorch network, config, params)."""
    import torch_inception

    found = {}
    for variant, name in NAMES.items():
        reference = torch_inception.random_inception(0, fid=variant == "fid")
        found[variant] = (reference, *converted(name, reference.state_dict())[1:])
    return found


def shapes_up_to(taps, variant="fid"):
    model = Inception(variant)
    return jax.eval_shape(lambda k, x: model.init(k, x, taps), jax.random.key(0), IMAGE)["params"]


def expect_parity(torch, pair, images, input_size):
    reference, config, params = pair
    with torch.no_grad():
        expected = reference(torch.from_numpy(nchw(images)), input_size)
    network = backbone("inception", {**config, "input_size": input_size})
    assert network.tap_names == tuple(expected)
    found = jax.jit(lambda p, x: network.apply(p, x, TAPS))(params, images)
    for tap, value in expected.items():
        value = nhwc(value)
        assert value.std() > 0.1
        error = np.abs(found[tap] - value).max()
        assert error <= PARITY * value.std(), (tap, error)
    return found, expected


@pytest.mark.parametrize("variant", sorted(NAMES))
def test_every_tap_equals_torch_at_the_size_of_an_uneven_image(torch, pairs, variant):
    found, expected = expect_parity(torch, pairs[variant], images_of(155, 140), None)
    assert found["mixed_7c"].shape == (1, 3, 3, 2048)
    pool3 = expected["mixed_7c"].mean((2, 3)).numpy()
    np.testing.assert_allclose(found["mixed_7c"].mean((1, 2)), pool3, atol=PARITY * pool3.std())


def test_every_tap_of_fid_equals_torch_after_resizing(torch, pairs):
    assert pairs["fid"][1] == {"variant": "fid", "input_size": FID_SIZE}
    assert pairs["torchvision"][1] == {"variant": "torchvision"}
    found, _ = expect_parity(torch, pairs["fid"], images_of(96, 123), FID_SIZE)
    sizes = {tap: found[tap].shape[1:] for tap in ("pool1", "pool2", "mixed_6e", "mixed_7c")}
    assert sizes == {
        "pool1": (73, 73, 64),
        "pool2": (35, 35, 192),
        "mixed_6e": (17, 17, 768),
        "mixed_7c": (8, 8, 2048),
    }


def test_first_difference_of_the_variants_is_the_border_of_the_first_average_pool(pairs):
    params, images = pairs["fid"][2], images_of(139, 150)
    fid, other = (
        jax.jit(lambda p, x, v=v: Inception(v).apply({"params": p}, x, ("pool2", "mixed_5b")))(
            params, images
        )
        for v in ("fid", "torchvision")
    )
    np.testing.assert_array_equal(fid["pool2"], other["pool2"])
    gap = np.abs(fid["mixed_5b"] - other["mixed_5b"])
    border = np.ones(gap.shape[1:3], bool)
    border[1:-1, 1:-1] = False
    assert gap[:, border, -32:].max() > 0.1  # the last 32 channels come from the pool
    assert gap[:, ~border].max() < 1e-5
    assert gap[..., :-32].max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(96, 123), (640, 411), (299, 150), (1, 2)])
def test_resizing_equals_torch(torch, height, width):
    images = images_of(height, width)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(nchw(images)), (FID_SIZE, FID_SIZE), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resize_bilinear(images, FID_SIZE), nhwc(expected), atol=2e-5)


def test_image_of_the_right_size_is_not_touched():
    images = images_of(FID_SIZE, FID_SIZE)
    assert resize_bilinear(images, FID_SIZE) is images


def test_it_has_torchvisions_number_of_parameters():
    flat = flax.traverse_util.flatten_dict(shapes_up_to(("mixed_7c",)))
    trained = sum(leaf.size for path, leaf in flat.items() if path[-1] not in ("mean", "var"))
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769 * 1000
    assert trained == 27_161_264 - 2_049_000 - auxiliary
    assert sum(path[-1] == "mean" for path in flat) == 94


def test_computes_no_further_than_the_deepest_tap():
    assert set(shapes_up_to(("pool1",))) == {"conv2d_1a", "conv2d_2a", "conv2d_2b"}
    assert "mixed_5b" not in shapes_up_to(("conv2d_4a", "pool2"))
    assert set(shapes_up_to(TAPS)) - set(shapes_up_to(("mixed_7b",))) == {"mixed_7c"}


def test_gradients_leave_the_statistics_alone(pairs):
    params = {name: pairs["fid"][2][name] for name in ("conv2d_1a", "conv2d_2a", "conv2d_2b")}
    model, images, taps = Inception(), images_of(20, 20), ("conv2d_2b",)

    def total(params):
        return jnp.sum(model.apply({"params": params}, images, taps)["conv2d_2b"])

    gradients = flax.traverse_util.flatten_dict(jax.jit(jax.grad(total))(params))
    still = {path for path, leaf in gradients.items() if not jnp.any(leaf != 0)}
    assert still == {path for path in gradients if path[-1] in {"mean", "var"}}


@pytest.mark.parametrize(
    ("fields", "taps", "words"),
    [
        ({}, (), "accepted are one or more of conv2d_2b, pool1"),
        ({}, ("pool1", "Mixed_7c"), "accepted are one or more of conv2d_2b, pool1"),
        ({"variant": "2015"}, ("pool1",), "variant='2015' is not known; accepted: fid, torchvis"),
    ],
)
def test_unknown_taps_and_variants_are_refused(fields, taps, words):
    with pytest.raises(InputError, match=words):
        Inception(**fields).init(jax.random.key(0), jnp.zeros(IMAGE.shape), taps)
