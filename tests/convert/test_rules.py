"""The conversion engine: what goes where, and every misfit in one message."""

from typing import NamedTuple

import numpy as np
import pytest

from oeft_jax._checks import InputError
from weights_convert.rules import (
    TRANSFORMS,
    Constant,
    Layout,
    Rule,
    apply_rules,
    flatten,
    matches,
)

LAYOUT = Layout(
    network="toy",
    naming="toy (2020)",
    marks=("net.0.weight", "net.1.weight"),
    configure=lambda shapes: {"width": shapes["net.0.weight"][0]},
    rules=lambda config: (
        Rule("net.0.weight", "conv/kernel", "conv"),
        Rule("net.0.bias", "conv/bias"),
        Rule("net.1.weight", "dense/kernel", "linear"),
    ),
    ignore=("*.num_batches_tracked",),
    constants=(Constant("*.blur", np.array([[1.0, 2.0], [2.0, 4.0]]) / 9), Constant("lod", 0.0)),
)


class Held(NamedTuple):
    """A tensor that remembers having been read."""

    values: np.ndarray
    reads: list

    @property
    def shape(self):
        return self.values.shape

    def read(self):
        self.reads.append(True)
        return self.values


def shapes_of(network, config):
    width = config["width"]
    return {"conv/kernel": (3, 3, 2, width), "conv/bias": (width,), "dense/kernel": (5, 6)}


def good(**changes):
    rng, reads = np.random.default_rng(0), []
    shapes = {"net.0.weight": (4, 2, 3, 3), "net.0.bias": (4,), "net.1.weight": (6, 5)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    values |= {
        "lod": np.zeros(()),
        "up.blur": np.tile(np.array([[1, 2], [2, 4]]) / 9, (7, 1, 1, 1)),
    }
    values |= {"bn.num_batches_tracked": np.int64(3)}
    values = {name: v for name, v in (values | changes).items() if v is not None}
    return {name: Held(np.asarray(v), reads) for name, v in values.items()}


def convert(tensors, **options):
    return apply_rules(LAYOUT, tensors, shapes_of, origin="toy.pth", **options)


def test_values_land_transposed_as_contiguous_float32():
    tensors = good()
    config, params = convert(tensors)
    assert config == {"width": 4}
    assert sorted(params) == ["conv/bias", "conv/kernel", "dense/kernel"]
    kernel = tensors["net.0.weight"].values
    for o, i, y, x in np.ndindex(*kernel.shape):
        assert params["conv/kernel"][y, x, i, o] == np.float32(kernel[o, i, y, x])
    assert params["dense/kernel"][4, 1] == np.float32(tensors["net.1.weight"].values[1, 4])
    for value in params.values():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous


def test_everything_that_does_not_fit_is_in_one_message_and_nothing_was_read():
    tensors = good(
        **{"net.0.bias": None, "net.1.weight": np.zeros((6, 4)), "net.9.bias": np.zeros(2)}
    )
    tensors = {name: t for name, t in tensors.items() if name not in ("lod", "up.blur")}
    with pytest.raises(InputError) as caught:
        convert(tensors)
    text = str(caught.value)
    assert text.startswith("toy.pth: does not fit toy (2020).\n")
    assert "missing in file:  net.0.bias" in text
    assert "unused from file: net.9.bias (leave it out with --skip 'net.9.bias')" in text
    assert "net.1.weight is (6, 4), which gives dense/kernel (4, 6); the network has (5, 6)" in text
    assert not tensors["net.1.weight"].reads


def test_tensor_of_another_rank_is_a_wrong_shape():
    with pytest.raises(InputError, match=r"net.1.weight is \(6,\), .* no shape"):
        convert(good(**{"net.1.weight": np.zeros(6)}))


def test_skip_leaves_a_tensor_out():
    _, params = convert(good(extra=np.ones(3)), skip=("ext*",))
    assert len(params) == 3


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lod", np.ones(()), "wrong values:     lod"),
        ("up.blur", np.full((7, 1, 2, 2), 0.25), "wrong values:     up.blur"),
        ("up.blur", np.full((7, 1, 3, 3), 1 / 9), "wrong shape:      up.blur"),
    ],
)
def test_constants_are_checked_by_value(name, value, words):
    with pytest.raises(InputError, match=words):
        convert(good(**{name: value}))


def test_containers_become_paths_and_other_values_are_left_out():
    one = Held(np.zeros(1), [])
    tree = {"g": {"a": one, "step": 3}, "list": [one, (one, "x")], "none": None}
    assert list(flatten(tree)) == ["g/a", "list/0", "list/1/0"]


def test_family_is_recognised_by_its_marks_under_their_short_names():
    assert matches(LAYOUT, good())
    assert not matches(LAYOUT, {"net.0.weight": 0})
    long = LAYOUT._replace(rename=lambda path: path.removeprefix("state/"))
    assert matches(long, {f"state/{name}": 0 for name in good()})


def test_missing_optional_parameter_is_completed():
    layout = LAYOUT._replace(
        optional=("conv/bias",),
        complete=lambda config, params: {"conv/bias": np.zeros(config["width"]), **params},
    )
    without = {name: t for name, t in good().items() if name != "net.0.bias"}
    _, params = apply_rules(layout, without, shapes_of, origin="toy.pth")
    assert not params["conv/bias"].any()
    _, params = apply_rules(layout, good(), shapes_of, origin="toy.pth")
    assert params["conv/bias"].all()


def test_table_that_misses_a_parameter_is_our_mistake():
    with pytest.raises(AssertionError, match="dense/kernel"):
        apply_rules(
            LAYOUT._replace(rules=lambda config: LAYOUT.rules(config)[:2]),
            good(),
            shapes_of,
            origin="toy.pth",
        )


def test_kernel_of_a_4x4_convolution_over_one_pixel_is_a_dense_layer():
    rng = np.random.default_rng(0)
    kernel, latent = rng.normal(size=(3, 5, 4, 4)), rng.normal(size=5)
    dense = np.einsum("z,zhwc->hwc", latent, TRANSFORMS["first"](kernel))
    padded = np.zeros((5, 7, 7))
    padded[:, 3, 3] = latent
    for y, x, c in np.ndindex(4, 4, 3):
        expected = np.sum(padded[:, y : y + 4, x : x + 4] * kernel[c])
        np.testing.assert_allclose(dense[y, x, c], expected)
