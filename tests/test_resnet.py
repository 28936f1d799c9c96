"""ResNet against an independent PyTorch one with random weights and statistics."""

import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oeft_jax._checks import InputError
from oeft_jax.models.resnet import ResNet, downscale_of, resnet50

torch = pytest.importorskip("torch")
from torch_resnet import random_resnet  # noqa: E402

PARITY = 1e-4  # of a tap's largest value; float32 through 50 convolutions in two libraries
TAPS = ("stem", "layer1", "layer2", "layer3", "layer4")
WIDTH = 8


def params_from(state_dict):
    """The mapping of the module's docstring, step by step."""
    last_names = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    flat = {}
    for key, tensor in state_dict.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        path, _, last = re.sub(r"\.(\d+)", r"_\1", key).rpartition(".")
        value = tensor.numpy()
        if last == "weight":
            last_name = "kernel" if value.ndim == 4 else "scale"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        else:
            last_name = last_names[last]
        flat[(*path.split("."), last_name)] = jnp.asarray(value)
    return flax.traverse_util.unflatten_dict(flat)


@pytest.fixture(scope="module")
def reference():
    return random_resnet(0, width=WIDTH)


@pytest.fixture(scope="module")
def params(reference):
    return params_from(reference.state_dict())


def images_of(height, width):
    return np.random.default_rng(1).uniform(size=(2, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 64), (75, 53)])
def test_every_tap_equals_torch(reference, params, size):
    images = images_of(*size)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    model = ResNet(width=WIDTH)
    found = jax.jit(lambda p, x: model.apply({"params": p}, x, TAPS))(params, images)
    assert model.tap_names() == TAPS
    assert set(found) == set(TAPS)
    for tap in TAPS:
        tap_expected = expected[tap].numpy().transpose(0, 2, 3, 1)
        scale = downscale_of(tap)
        assert found[tap].shape[1:3] == tuple(-(-side // scale) for side in size)
        assert found[tap].dtype == jnp.float32
        largest = tap_expected.max()
        assert largest > 0.1
        np.testing.assert_allclose(found[tap], tap_expected, rtol=0, atol=PARITY * largest)


def test_the_mapping_covers_every_parameter(params):
    model = ResNet(width=WIDTH)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = jax.eval_shape(lambda key, x: model.init(key, x, TAPS), jax.random.key(0), image)
    found = jax.tree.map(lambda leaf: leaf.shape, init["params"])
    assert found == jax.tree.map(lambda leaf: leaf.shape, params)


def test_resnet50_has_torchvisions_number_of_parameters():
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    model = resnet50()
    init = jax.eval_shape(lambda key, x: model.init(key, x, TAPS), jax.random.key(0), image)
    flat = flax.traverse_util.flatten_dict(init["params"])
    frozen = {"mean", "var"}
    trained = sum(leaf.size for path, leaf in flat.items() if path[-1] not in frozen)
    assert trained == 25_557_032 - 2_049_000  # torchvision's, without fc
    assert sum(path[-1] in frozen for path in flat) == 2 * 53
    assert all(path[-1] in {"kernel", "scale", "bias", *frozen} for path in flat)


def test_gradients_leave_the_statistics_alone():
    small = random_resnet(2, width=4, blocks=(1, 1))
    params = params_from(small.state_dict())
    model = ResNet((1, 1), 4)
    images = images_of(24, 24)

    def total(params):
        return jnp.sum(model.apply({"params": params}, images, ("layer2",))["layer2"] ** 2)

    gradients = flax.traverse_util.flatten_dict(jax.jit(jax.grad(total))(params))
    moved = {path: bool(jnp.any(leaf != 0)) for path, leaf in gradients.items()}
    assert {path for path, any_moved in moved.items() if not any_moved} == {
        path for path in moved if path[-1] in {"mean", "var"}
    }

    # The trained leaves have torch's gradients, so freezing did not change theirs.
    out = small(torch.from_numpy(images.transpose(0, 3, 1, 2)))["layer2"]
    (out**2).sum().backward()
    named = {name: p.grad for name, p in small.named_parameters() if p.grad is not None}
    expected = flax.traverse_util.flatten_dict(params_from(named))
    assert len(expected) == sum(moved.values())
    for path, gradient in expected.items():
        atol = 1e-3 * np.abs(gradient).max()
        np.testing.assert_allclose(gradients[path], gradient, rtol=0, atol=atol)


def test_computes_no_further_than_the_deepest_tap():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = ResNet(width=4)

    def init(taps):
        return jax.eval_shape(lambda key, x: model.init(key, x, taps), jax.random.key(0), image)

    assert set(init(("stem",))["params"]) == {"conv1", "bn1"}
    names = set(init(("layer1", "stem"))["params"])
    assert names == {"conv1", "bn1", "layer1_0", "layer1_1", "layer1_2"}


@pytest.mark.parametrize("taps", [(), ("layer5",), ("stem", "relu1_1")])
def test_unknown_taps_are_refused(taps):
    with pytest.raises(InputError, match="accepted are one or more of stem, layer1"):
        ResNet(width=4).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), taps)


def test_downscales():
    assert [downscale_of(tap) for tap in TAPS] == [2, 4, 8, 16, 32]
