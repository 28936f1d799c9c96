"""Feature networks from files of the published layout: converted whole, or refused in clear words."""

import numpy as np
import pytest
from converted import Held, converted, expect_parity, images_of
from flax.traverse_util import flatten_dict

from oeft_jax import golden
from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone
from oeft_jax.weights import load_weights
from weights_convert.convert import convert, shapes_of
from weights_convert.layouts import LAYOUTS
from weights_convert.rules import apply_rules

torch = pytest.importorskip("torch")
import torch_inception  # noqa: E402
import torch_resnet  # noqa: E402
import torch_small_nets as nets  # noqa: E402

SIZES = [(64, 93), (75, 54)]
torch.set_num_threads(2)


def without_counters(state):
    """As files were before PyTorch 0.4."""
    return {key: value for key, value in state.items() if "num_batches_tracked" not in key}


def random(name):
    """A network with random weights in full width; VGG's and AlexNet's unused heads are narrow."""
    match name:
        case "vgg16" | "vgg19":
            return nets.random_weights(nets.VGG(int(name[3:])), 0)
        case "vgg19_caffe":
            return nets.random_weights(nets.NamedVGG19(), 0)
        case "resnet50":
            return torch_resnet.random_resnet(0)
        case "alexnet":
            return nets.random_weights(nets.AlexNet(), 0)
        case "squeezenet1_0" | "squeezenet1_1":
            return nets.random_weights(nets.SqueezeNet(name[-3:]), 0)
        case _:
            return torch_inception.random_inception(0, fid=name == "inception_fid")


@pytest.fixture(scope="module")
def states():
    """name -> state dict, made when first asked for."""
    made = {}

    def state(name):
        if name not in made:
            made[name] = random(name).state_dict()
        return dict(made[name])

    return state


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "vgg19_caffe", "resnet50"])
def test_every_tap_equals_torch_in_full_width(name):
    reference = random(name)
    network, config, params = converted(name, reference.state_dict())
    net = backbone(network, config)
    for size in SIZES:
        expect_parity(reference, net, params, images_of(*size), least_spread=0.1)


# name -> (counters are kept, form of torch.save before 1.6), as the published files are
FILES = {
    "vgg16": (False, True),
    "vgg19": (False, True),
    "resnet50": (True, False),
    "inception_fid": (True, False),
    "inception_torchvision": (True, False),
    "alexnet": (False, True),
    "squeezenet1_0": (False, True),
    "squeezenet1_1": (False, True),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_file_becomes_weights_that_pass_their_fingerprint(states, tmp_path, name):
    counters, legacy = FILES[name]
    state = states(name) if counters else without_counters(states(name))
    file, out = tmp_path / "net.pth", tmp_path / "net.safetensors"
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    done = convert(name, file, out)
    weights = load_weights(out)
    golden.check(weights)
    network, config, params = converted(name, state)
    assert (weights.network, weights.config) == (network, config)
    assert weights.metadata["naming"] == done.layout.naming
    expected = flatten_dict(params, sep="/")
    found = flatten_dict(weights.params, sep="/")
    assert sorted(found) == sorted(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
    assert done.num_values == sum(value.size for value in expected.values())


@pytest.mark.parametrize(
    ("name", "make", "count"),
    [
        ("vgg16", lambda: nets.VGG(16, 4096), 138_357_544),
        ("vgg19", lambda: nets.VGG(19, 4096), 143_667_240),
        ("resnet50", lambda: torch_resnet.ResNet(), 25_557_032),
        ("alexnet", lambda: nets.AlexNet(4096), 61_100_840),
        ("squeezenet1_0", lambda: nets.SqueezeNet("1_0"), 1_248_424),
        ("squeezenet1_1", lambda: nets.SqueezeNet("1_1"), 1_235_496),
        ("inception_torchvision", lambda: torch_inception.Inception(False), 27_161_264),
    ],
)
def test_published_shapes_are_accepted_with_the_parts_that_are_left_out(name, make, count):
    with torch.device("meta"):
        network = make()
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    zero = np.zeros((), np.float32)
    tensors = {
        key: Held(np.broadcast_to(zero, tuple(value.shape)))
        for key, value in network.state_dict().items()
    }
    config, params = apply_rules(LAYOUTS[name][0], tensors, shapes_of, origin=name)
    assert {key: v.shape for key, v in params.items()} == shapes_of(
        LAYOUTS[name][0].network, config
    )


@pytest.mark.parametrize(
    ("convolutions", "depths"), [(1, [1]), (3, [2, 1]), (9, [2, 2, 4, 1]), (16, [2, 2, 4, 4, 4])]
)
def test_normalised_vgg_is_as_deep_as_its_file(convolutions, depths):
    layers, _ = nets.normalised_vgg19(convolutions)
    _, config, params = converted("vgg19_normalised", layers.state_dict())
    assert config["depths"] == depths
    assert len(params) == convolutions


def test_another_input_map_is_refused():
    layers, _ = nets.normalised_vgg19(1)
    state = layers.state_dict()
    state["0.weight"] = state["0.weight"].flip(0)
    with pytest.raises(InputError, match="wrong values:     0.weight does not hold what"):
        converted("vgg19_normalised", state)


def refusal(name, state, folder):
    file = folder / "file.pth"
    torch.save(state, file)
    with pytest.raises(InputError) as caught:
        convert(name, file, folder / "out.safetensors")
    assert not (folder / "out.safetensors").exists()
    return str(caught.value).removeprefix(f"{file}: ")


@pytest.mark.parametrize(
    ("name", "given", "looks_like"),
    [
        ("vgg19", "resnet50", "resnet50 (torchvision's ResNet-50)"),
        ("vgg19", "vgg16", "vgg16 (torchvision's VGG-16 with its classifier)"),
        ("vgg16", "vgg19", "vgg19 (torchvision's VGG-19 with its classifier)"),
        ("vgg19", "vgg19_caffe", "vgg19_caffe (Caffe's VGG-19 with named layers"),
        ("vgg16", "alexnet", "alexnet (torchvision's AlexNet)"),
        ("resnet50", "squeezenet1_1", "squeezenet1_1 (torchvision's SqueezeNet 1.1)"),
        ("squeezenet1_1", "squeezenet1_0", "squeezenet1_0 (torchvision's SqueezeNet 1.0)"),
        ("squeezenet1_0", "squeezenet1_1", "squeezenet1_1 (torchvision's SqueezeNet 1.1)"),
        (
            "inception_fid",
            "inception_torchvision",
            "inception_torchvision (torchvision's Inception-v3 with 1000 classes)",
        ),
        (
            "inception_torchvision",
            "inception_fid",
            "inception_fid (pytorch-fid's Inception of 2015-12-05 with 1008 classes)",
        ),
    ],
)
def test_another_network_is_named(states, tmp_path, name, given, looks_like):
    text = refusal(name, states(given), tmp_path)
    assert text.startswith(f"this looks like {looks_like}")
    assert f", not {name} (" in text


def heads(*widths):
    return {f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1) for k, width in enumerate(widths)}


LPIPS_HEADS = {
    "lpips_vgg": heads(64, 128, 256, 512, 512),
    "lpips_alex": heads(64, 192, 384, 256, 256),
    "lpips_squeeze": heads(64, 128, 256, 384, 384, 512, 512),
}


@pytest.mark.parametrize("name", sorted(LPIPS_HEADS))
@pytest.mark.parametrize("given", sorted(LPIPS_HEADS))
def test_heads_are_told_apart(tmp_path, name, given):
    if given == name:
        assert len(converted(name, LPIPS_HEADS[name])[2]) == len(LPIPS_HEADS[name])
    else:
        text = refusal(name, LPIPS_HEADS[given], tmp_path)
        assert text.startswith(f"this looks like {given} (the heads of LPIPS for ")


def test_vgg16_scaled_for_caffe_is_refused(states, tmp_path):
    """torchvision's features-only file has its names and shapes, and NaN in the classifier."""
    state = states("vgg16")
    state["classifier.6.bias"] = torch.full((1000,), torch.nan)
    text = refusal("vgg16", state, tmp_path)
    assert "classifier.6.bias is NaN: torchvision's features-only VGG-16" in text
    assert "expects Caffe's preprocessing" in text
    assert text.endswith("accepted: vgg16-397923af.pth.")


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_vgg_without_a_classifier_is_refused_as_its_scaling_is_unknown(states, tmp_path, name):
    features = {k: v for k, v in states(name).items() if k.startswith("features.")}
    text = refusal(name, features, tmp_path)
    assert text.startswith(f"not a file of {name}; it holds features.0.weight, features.0.bias")
    assert text.endswith(f"accepted: torchvision's VGG-{name[3:]} with its classifier.")


def test_everything_that_does_not_fit_is_listed_at_once(states, tmp_path):
    state = states("squeezenet1_1")
    del state["features.3.squeeze.bias"]
    state["classifier.1.weight"] = torch.zeros(10, 512, 1, 1)
    state["extra.weight"] = torch.zeros(2)
    lines = refusal("squeezenet1_1", state, tmp_path).splitlines()
    assert lines[0].endswith("does not fit torchvision's SqueezeNet 1.1.")
    assert lines[1:] == [
        "  missing in file:  features.3.squeeze.bias",
        "  unused from file: extra.weight (leave it out with --skip 'extra.weight')",
        "  wrong shape:      classifier.1.weight is (10, 512, 1, 1), which gives conv10/kernel "
        "(1, 1, 512, 10); the network has (1, 1, 512, 1000)",
    ]


def test_caffes_squeezenet_of_an_npz_file_converts(tmp_path):
    state = nets.random_weights(nets.CaffeSqueezeNet(), 0).caffe_state()
    file, out = tmp_path / "squeezenet10.npz", tmp_path / "net.safetensors"
    np.savez_compressed(file, **{key: value.numpy() for key, value in state.items()})
    assert convert("squeezenet1_0", file, out).layout.naming == "SqueezeNet 1.0 of Caffe"
    weights = load_weights(out)
    golden.check(weights)
    assert weights.config["preprocessing"] == "bgr255"
