"""AlexNet, SqueezeNet and the VGGs of Caffe's line against independent PyTorch networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import converted, expect_parity, images_of
from PIL import Image

from oeft_jax import golden
from oeft_jax._checks import InputError
from oeft_jax.models.alexnet import AlexNet
from oeft_jax.models.backbone import backbone
from oeft_jax.models.squeezenet import SqueezeNet
from oeft_jax.models.vgg import VGG
from oeft_jax.weights import load_weights
from weights_convert.convert import convert

SIZES = [(64, 93), (75, 54)]  # each side even once and odd once
IMAGE = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


@pytest.fixture(scope="module")
def nets():
    torch = pytest.importorskip("torch")
    import torch_small_nets

    torch.set_num_threads(2)
    return torch_small_nets


MAKERS = {
    "alexnet": lambda nets: nets.AlexNet(),
    "squeezenet1_0": lambda nets: nets.SqueezeNet("1_0"),
    "squeezenet1_1": lambda nets: nets.SqueezeNet("1_1"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_tap_equals_torch(nets, name, size):
    reference = nets.random_weights(MAKERS[name](nets), 0)
    network, config, params = converted(name, reference.state_dict())
    expect_parity(reference, backbone(network, config), params, images_of(*size))


@pytest.mark.parametrize("size", SIZES)
def test_every_tap_of_caffes_squeezenet_equals_torch(nets, size):
    reference = nets.random_weights(nets.CaffeSqueezeNet(), 0)
    network, config, params = converted("squeezenet1_0", reference.caffe_state(), family=1)
    expect_parity(reference, backbone(network, config), params, images_of(*size))


@pytest.mark.parametrize("size", SIZES)
def test_reflection_and_odd_edges_equal_torch_in_the_normalised_vgg(nets, size):
    reference = nets.NormalisedVGG19(9)
    nets.random_weights(reference.layers[1:], 0)  # the first holds the input map
    network, config, params = converted("vgg19_normalised", reference.layers.state_dict())
    assert config["depths"] == [2, 2, 4, 1]
    expect_parity(reference, backbone(network, config), params, images_of(*size))


@pytest.mark.parametrize(
    ("model", "last", "count"),
    [
        (AlexNet(), "relu5", 61_100_840 - 58_631_144),
        (SqueezeNet("1_0"), "logits", 1_248_424),
        (SqueezeNet("1_1"), "logits", 1_235_496),
    ],
)
def test_it_has_torchvisions_number_of_parameters(model, last, count):
    params = jax.eval_shape(lambda k, x: model.init(k, x, (last,)), jax.random.key(0), IMAGE)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("model", "tap", "names"),
    [
        (AlexNet(), "relu2", {"conv1", "conv2"}),
        (SqueezeNet("1_1"), "fire3", {"conv1", "fire2", "fire3"}),
    ],
)
def test_computes_no_further_than_the_deepest_tap(model, tap, names):
    params = jax.eval_shape(lambda k, x: model.init(k, x, (tap,)), jax.random.key(0), IMAGE)
    assert set(params["params"]) == names


@pytest.mark.parametrize(
    ("model", "taps", "words"),
    [
        (AlexNet(), ("relu6",), "accepted are one or more of relu1, .*relu5"),
        (SqueezeNet(), (), "accepted are one or more of relu1, fire2, .*logits"),
        (SqueezeNet("1_2"), ("relu1",), "version='1_2' is not known; accepted: 1_0, 1_1"),
        (
            SqueezeNet("1_0", "rgb"),
            ("relu1",),
            "preprocessing='rgb' is not known; accepted: bgr255, im",
        ),
        (VGG(preprocessing="rgb"), ("relu1_1",), "preprocessing='rgb' is not known; accepted: bgr"),
        (VGG(padding="same"), ("relu1_1",), "padding='same' is not known; accepted: reflect, zer"),
    ],
)
def test_unknown_taps_and_fields_are_refused(model, taps, words):
    with pytest.raises(InputError, match=words):
        model.init(jax.random.key(0), jnp.zeros(IMAGE.shape), taps)


def read(path, size=None):
    image = Image.open(path).convert("RGB")
    image = image.resize(size, Image.Resampling.BILINEAR) if size else image
    return np.asarray(image, np.float32)[None] / 255


def test_published_normalised_vgg_equals_torch_on_a_photo(nets, shared_data, tmp_path):
    import torch

    file = shared_data / "w_vgg19_normalised" / "vgg_normalised_conv3_1.pth"
    weights = loaded("vgg19_normalised", file, tmp_path)
    reference = nets.NormalisedVGG19(5)
    reference.layers.load_state_dict(torch.load(file, weights_only=True))
    photo = read(shared_data / "celebamaskhq" / "0.jpg", (203, 160))
    network = backbone(weights.network, weights.config)
    assert network.tap_names[-1] == "relu3_1"
    expect_parity(reference, network, weights.params, photo)


def loaded(name, file, folder):
    """Converted, written, read and checked."""
    out = folder / "net.safetensors"
    convert(name, file, out)
    weights = load_weights(out)
    golden.check(weights)
    return weights


CATS, DOGS = range(281, 286), range(151, 269)
WILD = (*range(269, 281), *range(286, 294))  # wolves, dogs of the wild, foxes; big cats


def test_published_squeezenet_recognises_animals(shared_data, tmp_path):
    file = shared_data / "w_squeezenet10" / "squeezenet10_decoded.npz"
    weights = loaded("squeezenet1_0", file, tmp_path)
    network = backbone(weights.network, weights.config)
    logits = jax.jit(lambda x: network.apply(weights.params, x, ("logits",))["logits"])
    hits = {}
    for family, classes in (("cat", CATS), ("dog", DOGS), ("wild", WILD)):
        files = sorted((shared_data / "starganv2" / "afhq").rglob(f"{family}/*.jpg"))
        tops = [np.argsort(logits(read(f, (227, 227))).mean((0, 1, 2)))[-5:] for f in files]
        hits[family] = (sum(bool(set(classes) & set(top)) for top in tops), len(tops))
    assert hits == {"cat": (10, 10), "dog": (6, 7), "wild": (10, 10)}


@pytest.mark.parametrize(("network", "tap"), [("alexnet", "relu5"), ("squeezenet", "logits")])
def test_images_too_small_for_a_tap_are_refused(network, tap):
    net = backbone(network, {})
    with pytest.raises(InputError, match=f"images of 8 x 9 pixels leave nothing at {tap}"):
        jax.eval_shape(
            lambda key: net.apply(net.init(key, (tap,)), jnp.zeros((1, 8, 9, 3)), (tap,)),
            jax.random.key(0),
        )
