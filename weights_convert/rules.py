"""Which tensor of a published file becomes which parameter of ours: tables as data, one engine.

A layout says how one naming family is recognised, how its network's sizes follow from the shapes,
and which tensor goes where through which change of axes. `apply_rules` looks at shapes first and
reads values last, so a file that does not fit costs nothing but its table of contents.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from oeft_jax._checks import InputError

Shapes = Mapping[str, tuple[int, ...]]


class Tensor(Protocol):
    """A tensor of a file that is read when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Known without reading values."""
        ...

    def read(self) -> np.ndarray:
        """Its values."""
        ...


class Rule(NamedTuple):
    """One tensor and where it goes."""

    source: str  # path in the file, as `flatten` writes it
    target: str  # "conv1_1/kernel"
    transform: str = "same"  # a key of TRANSFORMS


class Constant(NamedTuple):
    """Tensors that must hold known values (a blur kernel, lod 0) and are then dropped."""

    pattern: str  # of fnmatch
    expected: np.ndarray | float  # broadcast to the tensor


class Layout(NamedTuple):
    """One naming family of one network."""

    network: str  # what oeft_jax builds: "vgg", "pggan", ...
    naming: str  # whose file it is, in words people know
    marks: tuple[str, ...]  # paths that this family has and that no other has all of
    configure: Callable[[Shapes], dict[str, Any]]  # sizes of the network, from the shapes
    rules: Callable[[dict[str, Any]], Sequence[Rule]]
    ignore: tuple[str, ...] = ()  # patterns of tensors without a counterpart
    # patterns of tensors that a network of this config leaves out, if they are there
    unneeded: Callable[[dict[str, Any]], Sequence[str]] = lambda config: ()
    constants: tuple[Constant, ...] = ()
    preprocessing: str = ""  # what the network expects of images, for the header
    rename: Callable[[str], str] | None = None  # long container paths to the ones in the rules
    # (config, params) -> params: fills what some files of the family leave out
    complete: Callable[[dict[str, Any], dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    optional: tuple[str, ...] = ()  # targets that `complete` can fill
    mark_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})  # marks of a known shape
    nan_means: Mapping[str, str] = MappingProxyType({})  # path -> what a file with NaN there is


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "conv": lambda x: x.transpose(2, 3, 1, 0),  # OIHW -> HWIO
    "conv_rotated": lambda x: x[:, :, ::-1, ::-1].transpose(2, 3, 1, 0),
    "hwio_rotated": lambda x: x[::-1, ::-1],
    "linear": lambda x: x.transpose(1, 0),  # [out, in] -> [in, out]
    "image": lambda x: x.transpose(0, 2, 3, 1),  # NCHW -> NHWC
    "image_chw": lambda x: x.transpose(1, 2, 0)[None],  # CHW -> 1HWC
    "plane": lambda x: x[None, :, :, None],  # HW -> 1HW1
    # a 4 x 4 convolution with padding 3 over a 1 x 1 map, as the dense layer that it is
    "first": lambda x: x[:, :, ::-1, ::-1].transpose(1, 2, 3, 0),
    "modulated": lambda x: x[0].transpose(2, 3, 1, 0),  # [1, out, in, kh, kw] -> HWIO
    "modulated_rotated": lambda x: x[0, :, :, ::-1, ::-1].transpose(2, 3, 1, 0),
    "vector": lambda x: x.reshape(-1),
    "scalar": lambda x: x.reshape(()),
    "plus_one": lambda x: x + 1,
}


def flatten(tree: Any) -> dict[str, Tensor]:
    """Every tensor of a file by path, the names of nested containers joined by "/"."""
    found: dict[str, Tensor] = {}
    stack: list[tuple[str, Any]] = [("", tree)]
    while stack:
        path, node = stack.pop()
        if hasattr(node, "read") and hasattr(node, "shape"):
            found[path] = node
            continue
        children: Iterable[tuple[Any, Any]] = ()
        if isinstance(node, dict):
            children = node.items()
        elif isinstance(node, list | tuple):
            children = enumerate(node)
        stack += [(f"{path}/{name}" if path else str(name), child) for name, child in children]
    return dict(sorted(found.items()))


def matches(layout: Layout, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file of these tensors is of the layout's family: names, then some shapes."""
    rename = layout.rename or (lambda name: name)
    named = {rename(name): tensor for name, tensor in tensors.items()}
    return {*layout.marks, *layout.mark_shapes} <= named.keys() and all(
        tuple(named[name].shape) == shape for name, shape in layout.mark_shapes.items()
    )


def apply_rules(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    shapes_of: Callable[[str, dict[str, Any]], Shapes],
    *,
    origin: str,
    skip: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The network's config and its parameters by name ("conv1_1/kernel"), float32.

    Args:
      tensors: path -> tensor, of `flatten`.
      shapes_of: (network, config) -> the parameters that oeft_jax has, by name.
      origin: the file's name, for the message.
      skip: further patterns of paths to leave out.
    Raises:
      InputError: lists everything missing, unused and mis-shaped at once.
    """
    if layout.rename is not None:
        tensors = {layout.rename(path): tensor for path, tensor in tensors.items()}
    for path, meaning in layout.nan_means.items():
        if path in tensors and np.isnan(tensors[path].read()).any():
            raise InputError(f"{origin}: {path} is NaN: {meaning}")
    tensors = {
        path: t for path, t in tensors.items() if not _matches_any(path, (*layout.ignore, *skip))
    }
    config = _config(layout, tensors, origin)
    unneeded = layout.unneeded(config)
    tensors = {path: t for path, t in tensors.items() if not _matches_any(path, unneeded)}
    rules = [
        rule
        for rule in layout.rules(config)
        if rule.source in tensors or rule.target not in layout.optional
    ]
    wanted = dict(shapes_of(layout.network, config))
    _check_table(layout, rules, wanted)
    constants = {
        path: constant
        for path in tensors
        for constant in layout.constants
        if fnmatchcase(path, constant.pattern)
    }
    problems = _problems(rules, tensors, wanted, unused=tensors.keys() - constants.keys())
    problems += _wrong_constants(constants, tensors)
    if problems:
        raise InputError("\n  ".join([f"{origin}: does not fit {layout.naming}.", *problems]))
    params = {rule.target: _converted(rule, tensors[rule.source]) for rule in rules}
    if layout.complete is not None:
        params = layout.complete(config, params)
    return config, params


def _matches_any(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _config(layout: Layout, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    try:
        return layout.configure({path: tuple(t.shape) for path, t in tensors.items()})
    except KeyError as error:
        raise InputError(f"{origin}: does not fit {layout.naming}: {error} is missing.") from error
    except IndexError as error:
        raise InputError(
            f"{origin}: does not fit {layout.naming}: a tensor that says how large the network is "
            "has too few axes."
        ) from error


def _check_table(layout: Layout, rules: Sequence[Rule], wanted: Shapes) -> None:
    """A table that misses a parameter is our mistake, not the file's."""
    filled = {rule.target for rule in rules} | set(layout.optional) & set(wanted)
    assert filled == set(wanted), sorted(filled ^ set(wanted))


def _problems(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], wanted: Shapes, *, unused: set[str]
) -> list[str]:
    missing = [rule.source for rule in rules if rule.source not in tensors]
    unused = unused - {rule.source for rule in rules}
    problems = [f"missing in file:  {path}" for path in missing]
    problems += [
        f"unused from file: {path} (leave it out with --skip '{path}')" for path in sorted(unused)
    ]
    for rule in rules:
        if rule.source in tensors:
            shape = _shape_after(rule, tuple(tensors[rule.source].shape))
            if shape != tuple(wanted[rule.target]):
                problems.append(
                    f"wrong shape:      {rule.source} is {tuple(tensors[rule.source].shape)}, "
                    f"which gives {rule.target} {shape or 'no shape'}; "
                    f"the network has {tuple(wanted[rule.target])}"
                )
    return problems


def _shape_after(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What the transform makes of a shape; None when it does not apply to it."""
    try:
        return TRANSFORMS[rule.transform](np.broadcast_to(np.float32(0), shape)).shape
    except (ValueError, IndexError):
        return None


def _wrong_constants(constants: Mapping[str, Constant], tensors: Mapping[str, Tensor]) -> list[str]:
    problems = []
    for path, constant in constants.items():
        shape = tuple(tensors[path].shape)
        try:
            expected = np.broadcast_to(constant.expected, shape)
        except ValueError:
            problems.append(f"wrong shape:      {path} is {shape}")
            continue
        if not np.allclose(tensors[path].read(), expected, rtol=1e-4, atol=1e-5):
            problems.append(f"wrong values:     {path} does not hold what this network is built on")
    return problems


def _converted(rule: Rule, tensor: Tensor) -> np.ndarray:
    value = TRANSFORMS[rule.transform](tensor.read())
    return np.asarray(value, np.float32, order="C")
