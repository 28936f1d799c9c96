"""Writes pickles in the manner of StyleGAN2-ADA's `persistence`, and the values in them.

A program of its own: its classes live in modules of the names that NVIDIA's pickles refer to.
"""

import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch

SOURCE = "import os\nos._exit(3)\n" * 50  # what a reader must never run


class EasyDict(dict):
    """As `dnnlib.util.EasyDict`: only its name matters here."""


def _reconstruct_persistent_obj(meta):
    raise SystemExit("only ever named in a pickle")


def persistent(kind):
    """A class whose instances are pickled as their source code and state."""

    class Persistent(kind):
        def __reduce__(self):
            state = super().__reduce__()[2]
            meta = {"type": "class", "version": 6, "module_src": SOURCE}
            meta |= {"class_name": kind.__name__, "state": state}
            return _reconstruct_persistent_obj, (meta,), None

    return Persistent


def place(module, member):
    """Puts `member` where NVIDIA's code has it."""
    made = sys.modules.setdefault(module, types.ModuleType(module))
    member.__module__ = module
    setattr(made, member.__qualname__, member)


@persistent
class FullyConnectedLayer(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(3, 2, generator=draw))
        self.bias = torch.nn.Parameter(torch.randn(3, generator=draw)) if seed else None
        self.weight_gain = 0.5 / np.sqrt(2)


@persistent
class Generator(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self._init_args, self._init_kwargs = (), EasyDict(options)
        self.affine, self.fc = FullyConnectedLayer(1), FullyConnectedLayer(0)
        self.list = torch.nn.ModuleList([torch.nn.Conv2d(1, 2, 1)])
        self.register_buffer("noise_const", torch.arange(16.0).reshape(4, 4))
        self.register_buffer("fp16", torch.arange(6).half().reshape(2, 3).T)
        self.register_buffer("w_avg", torch.zeros([]), persistent=False)


def main(folder):
    """Writes protocol3.pkl, protocol4.pkl and values.npz."""
    warnings.simplefilter("ignore")
    for module in ("dnnlib", "torch_utils"):
        sys.modules[module] = types.ModuleType(module)
    place("dnnlib.util", EasyDict)
    place("torch_utils.persistence", _reconstruct_persistent_obj)
    options = {"z_dim": 4, "mapping_kwargs": EasyDict(num_layers=2)}
    nets = {name: Generator(**options) for name in ("G", "D", "G_ema")}
    nets["training_set_kwargs"] = EasyDict(path="x.zip", resolution=256)
    nets["augment_pipe"] = None
    for protocol in (3, 4):
        Path(folder, f"protocol{protocol}.pkl").write_bytes(pickle.dumps(nets, protocol))
    values = {key: value.numpy() for key, value in nets["G_ema"].state_dict().items()}
    np.savez(Path(folder, "values.npz"), **values)


if __name__ == "__main__":
    main(*sys.argv[1:])
