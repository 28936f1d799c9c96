"""Weights of a PyTorch network in this process as parameters of ours, by the converter's tables."""

from typing import NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from weights_convert.convert import shapes_of
from weights_convert.layouts import LAYOUTS
from weights_convert.rules import apply_rules


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
