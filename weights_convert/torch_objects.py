"""What the names in a PyTorch pickle stand for here; `find` knows them all.

Each was seen in what torch.save writes (0.1.11 to 2.x), in a pickle of NVIDIA's StyleGAN2-ADA, or
in NumPy numbers inside either. Objects lose their class and keep their attributes.
"""

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from weights_convert.file_window import CUT_SHORT, Allowance, FormatError, Window
from weights_convert.numpy_objects import NumpyArray, NumpyType, numpy_scalar
from weights_convert.pickle_machine import Function, Unfinished
from weights_convert.stored_tensors import (
    Storage,
    View,
    kind,
    view,
)

SAVE_ANEW = "in PyTorch, load it and save its state_dict() with torch.save"

_STORAGES = {
    "Double": kind("f8"),
    "Float": kind("f4"),
    "Half": kind("f2"),
    "BFloat16": kind("u2", "f4"),
    "Long": kind("i8"),
    "Int": kind("i4"),
    "Short": kind("i2"),
    "Char": kind("i1"),
    "Byte": kind("u1"),
    "Bool": kind("u1", "?"),
}
_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *("uint8", "int8", "int16", "int32", "int64"),
)
_RENAMED = {  # what the same module was called in older files
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "torch.cuda": "torch",
}
_LAYER = re.compile(r"torch\.nn\.modules(\.\w+)+", re.ASCII)


class Record(Unfinished):
    """An object of which only the attributes are kept."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[Any, Any] | None = None) -> None:
        self.class_name = class_name
        self.state = {} if state is None else state

    def build(self, state: Any) -> None:
        """Takes the attributes."""
        if type(state) is not dict:
            raise FormatError(CUT_SHORT)
        self.state = state

    def finish(self) -> dict[str, Any]:
        """The attributes, named as PyTorch names a module's."""
        return {"class_name": self.class_name, "state": self.state}


class _Namespace(Record):
    """The options of a command line: the attributes alone."""

    __slots__ = ()

    def finish(self) -> dict[str, Any]:
        return self.state


class _Parameter(Unfinished):
    """A parameter as PyTorch before 0.4 wrote it: made of a tensor, then told its flags."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: View, *_: Any) -> None:
        self.tensor = tensor

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 3:  # requires_grad, volatile, hooks
            raise FormatError(CUT_SHORT)

    def finish(self) -> View:
        return self.tensor


def _tensor(
    storage: Storage, offset: int, shape: Any, strides: Any, _grad: Any, _hooks: Any, bits: Any = ()
) -> View:
    if bits:
        raise FormatError(f"has a tensor with a pending negation or conjugate; {SAVE_ANEW}")
    return view(storage, offset, shape, strides)


def _mapping(allowance: Allowance, pairs: Any = ()) -> dict[Any, Any]:
    """A dict from pairs, as Python 2 wrote an OrderedDict."""
    allowance.spend_instructions(len(pairs))  # the same pairs may be given again and again
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise FormatError(CUT_SHORT)
    if not all(type(key) in (str, int) for key, _ in pairs):
        raise FormatError("has a table with a key that is not a name")
    return dict(pairs)


def _encoded(allowance: Allowance, text: str, encoding: str) -> Window:
    """Bytes, which protocol 2 writes as text in Latin-1."""
    allowance.spend_bytes(len(text))  # the same text may be given again and again
    try:
        data = text.encode({"latin1": "latin-1"}[encoding])
    except (KeyError, UnicodeEncodeError):
        raise FormatError(CUT_SHORT) from None
    return Window(io.BytesIO(data), 0, len(data), allowance)


def _device(name: str, index: int | None = None) -> str:
    if len(name) > 16:
        raise FormatError("names a device that PyTorch does not know")
    return name if index is None else f"{name}:{index}"


def _persistent(meta: dict[Any, Any]) -> Record:
    """NVIDIA's self-contained object: its source code (`module_src`) is dropped, never run."""
    name, state = meta.get("class_name"), meta.get("state")
    if meta.get("type") != "class" or type(name) is not str or type(state) is not dict:
        raise FormatError("has a persistent object of an unknown form")
    return Record(name, state)


def _object(made: Function, _base: Function, _state: None) -> Any:
    return made.invoke(())


Names = Mapping[tuple[str, str], Any]  # (module, name) -> Function, or a constant

_TENSOR = (Storage, int, tuple, tuple)
_CONSTANTS: Names = {
    **{("torch", f"{name}Storage"): numbers for name, numbers in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _STORAGES["Byte"],
    **{("torch", name): f"torch.{name}" for name in _DTYPES},
}


def names(allowance: Allowance) -> Names:
    """The closed list of what a pickle may refer to."""
    mapping, encoded = partial(_mapping, allowance), partial(_encoded, allowance)
    calls: dict[tuple[str, str], tuple[Callable[..., Any], tuple[tuple[type, ...], ...]]] = {
        ("collections", "OrderedDict"): (mapping, ((), (list,))),
        ("dnnlib.util", "EasyDict"): (dict, ((),)),
        ("builtins", "set"): (_first, ((list,),)),
        ("builtins", "bytes"): (partial(encoded, "", "latin1"), ((),)),
        ("builtins", "object"): (object, ()),
        ("_codecs", "encode"): (encoded, ((str, str),)),
        ("copyreg", "_reconstructor"): (_object, ((Function, Function, type(None)),)),
        ("argparse", "Namespace"): (partial(_Namespace, "Namespace"), ((),)),
        ("torch", "Size"): (_first, ((tuple,),)),
        ("torch", "device"): (_device, ((str,), (str, int))),
        ("torch._utils", "_rebuild_tensor"): (view, (_TENSOR,)),
        ("torch._utils", "_rebuild_tensor_v2"): (
            _tensor,
            ((*_TENSOR, bool, object), (*_TENSOR, bool, object, dict)),
        ),
        ("torch._utils", "_rebuild_parameter"): (_first, ((View, bool, object),)),
        ("torch._utils", "_rebuild_parameter_with_state"): (
            _first,
            ((View, bool, object, object),),
        ),
        ("torch.nn.parameter", "Parameter"): (_Parameter, ((View,), (View, bool))),
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): (_persistent, ((dict,),)),
        ("numpy", "dtype"): (NumpyType, ((str, int, int),)),
        ("numpy", "ndarray"): (NumpyArray, ()),
        ("numpy._core.multiarray", "scalar"): (numpy_scalar, ((NumpyType, Window),)),
        ("numpy._core.multiarray", "_reconstruct"): (NumpyArray, ((Function, tuple, Window),)),
    }
    functions = {key: Function(".".join(key), *entry) for key, entry in calls.items()}
    return {**_CONSTANTS, **functions}


def _first(value: Any, *_: Any) -> Any:
    return value


def find(known: Names, module: str, name: str) -> Any:
    """What a name stands for; a layer of torch.nn stands for its attributes.

    Raises:
      FormatError: the name is not in the list; it is not looked up anywhere else.
    """
    if len(module) + len(name) > 256:
        raise FormatError("refers to a name of over 256 letters; nothing of it ran")
    module = _RENAMED.get(module, module)
    if (module, name) in known:
        return known[module, name]
    full = f"{module}.{name}"
    if _LAYER.fullmatch(full):
        return Function(full, partial(Record, name), ((),))
    raise FormatError(
        f"refers to {ascii(full)[1:-1]}, which weights do not need; nothing of it ran; {SAVE_ANEW}"
    )
