"""VGG against an independent PyTorch network, its taps and its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oeft_jax._checks import InputError
from oeft_jax.models import vgg

WIDTHS = (4, 6, 8, 8, 8)
DEPTHS = {"vgg16": vgg.VGG16_DEPTHS, "vgg19": vgg.VGG19_DEPTHS}
TOLERANCE = {"float32": 1e-4}  # of the largest value of a tap
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def torch_vgg(torch, depths):
    """torchvision's `features`: convolution, ReLU, ..., pooling after each block."""
    layers, inputs = [], 3
    for width, depth in zip(WIDTHS, depths, strict=True):
        for _ in range(depth):
            layers += [torch.nn.Conv2d(inputs, width, 3, padding=1), torch.nn.ReLU()]
            torch.nn.init.kaiming_normal_(layers[-2].weight)
            torch.nn.init.normal_(layers[-2].bias, std=0.1)
            inputs = width
        layers.append(torch.nn.MaxPool2d(2, 2))
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("name", DEPTHS)
def test_every_tap_is_that_of_an_independent_pytorch_vgg(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch_vgg(torch, DEPTHS[name])
    images = np.random.default_rng(0).uniform(size=(2, 48, 40, 3)).astype(np.float32)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor(((images - mean) / deviation).transpose(0, 3, 1, 2), dtype=torch.float32)

    params, expected, block, index = {}, {}, 1, 0
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            if isinstance(layer, torch.nn.Conv2d):
                index += 1
                kernel = layer.weight.numpy().transpose(2, 3, 1, 0)
                params[f"conv{block}_{index}"] = {"kernel": kernel, "bias": layer.bias.numpy()}
            elif isinstance(layer, torch.nn.ReLU):
                expected[f"relu{block}_{index}"] = x.numpy().copy().transpose(0, 2, 3, 1)
            else:
                block, index = block + 1, 0

    ours = vgg.VGG(DEPTHS[name], WIDTHS)
    assert ours.tap_names() == tuple(expected)
    found = jax.jit(lambda p, x: ours.apply({"params": p}, x, ours.tap_names()))(params, images)
    assert found["relu5_1"].shape == (2, 3, 2, 8)
    for tap, value in expected.items():
        assert value.max() > 0.1
        np.testing.assert_allclose(
            found[tap], value, atol=TOLERANCE["float32"] * value.max(), err_msg=tap
        )


def test_deepest_tap_bounds_the_parameters_and_only_asked_taps_come_back(key):
    network = vgg.VGG(vgg.VGG19_DEPTHS, WIDTHS)
    taps = ("relu2_1", "relu1_1")
    params = jax.eval_shape(lambda: network.init(key, jnp.zeros(IMAGES.shape), taps))
    assert sorted(params["params"]) == ["conv1_1", "conv1_2", "conv2_1"]
    features = jax.eval_shape(lambda p, x: network.apply(p, x, taps), params, IMAGES)
    shapes = {tap: value.shape for tap, value in features.items()}
    assert shapes == {"relu2_1": (1, 16, 16, 6), "relu1_1": (1, 32, 32, 4)}


@pytest.mark.parametrize(("name", "count"), [("vgg19", 20_024_384), ("vgg16", 14_714_688)])
def test_full_network_has_as_many_parameters_as_torchvision(name, count, key):
    network = getattr(vgg, name)()
    taps = (network.tap_names()[-1],)
    params = jax.eval_shape(lambda: network.init(key, jnp.zeros(IMAGES.shape), taps))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("taps", [("relu9_1",), ("relu1_1", "conv1_1"), ("relu3_4",), ()])
def test_taps_that_do_not_exist_are_refused_with_those_that_do(taps, key):
    network = vgg.VGG(vgg.VGG16_DEPTHS, WIDTHS)  # relu3_4 exists in VGG-19 only
    with pytest.raises(InputError, match="accepted are one or more of relu1_1, .*relu5_3"):
        jax.eval_shape(lambda: network.init(key, jnp.zeros(IMAGES.shape), taps))


def test_normalised_mean_colour_is_zero_and_one_deviation_is_one():
    mean = np.broadcast_to(vgg.IMAGENET_MEAN, (1, 2, 2, 3))
    np.testing.assert_allclose(vgg.normalise_imagenet(mean), 0, atol=1e-7)
    more = mean + vgg.IMAGENET_STD
    np.testing.assert_allclose(vgg.normalise_imagenet(more), 1, atol=1e-6)


@pytest.mark.parametrize(("tap", "factor"), [("relu1_2", 1), ("relu3_4", 4), ("relu5_1", 16)])
def test_downscale_of_a_tap_is_the_image_side_over_its_side(tap, factor, key):
    network = vgg.VGG(vgg.VGG19_DEPTHS, WIDTHS)
    shape = jax.eval_shape(
        lambda: network.init_with_output(key, jnp.zeros(IMAGES.shape), (tap,))[0][tap]
    ).shape
    assert vgg.downscale_of(tap) == factor == IMAGES.shape[1] // shape[1]
