"""Weights of a PyTorch network in this process as parameters of ours, by the converter's tables."""

from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from weights_convert.convert import shapes_of
from weights_convert.layouts import LAYOUTS
from weights_convert.rules import apply_rules

PARITY = 1e-4  # of a tap's deviation; float32 through up to 50 layers in two libraries


class Held(NamedTuple):
    """An array as a tensor of a file."""

    values: np.ndarray

    @property
    def shape(self):
        return self.values.shape

    def read(self):
        return self.values


def converted(name, state, *, family=0):
    """(network, config, params) of a state dict that has the layout `LAYOUTS[name][family]`."""
    tensors = {key: Held(value.numpy()) for key, value in state.items()}
    layout = LAYOUTS[name][family]
    config, params = apply_rules(layout, tensors, shapes_of, origin=name)
    return layout.network, config, unflatten_dict(params, sep="/")


def nchw(images):
    """[n, h, w, c] to what PyTorch takes."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def nhwc(tensor):
    """A PyTorch feature map as [n, h, w, c]."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def images_of(height, width, *, seed=1, count=1):
    """[count, height, width, 3] float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, height, width, 3)).astype(np.float32)


def expect_parity(reference, net, params, images, *, least_spread=1e-3):
    """Every tap of a feature network equals that of a PyTorch one, and is no constant.

    Args:
      least_spread: what a tap's deviation exceeds.
    """
    import torch

    with torch.no_grad():
        expected = reference(torch.from_numpy(nchw(images)))
    assert net.tap_names == tuple(expected)
    found = jax.jit(lambda p, x: net.apply(p, x, net.tap_names))(params, images)
    for tap, value in expected.items():
        value = nhwc(value)
        assert value.std() > least_spread
        assert found[tap].shape == value.shape
        error = np.abs(found[tap] - value).max()
        assert error <= PARITY * value.std(), (images.shape, tap, error)
