"""A fingerprint of what a network computes, kept beside its weights and taken again on load.

Names and shapes cannot tell a permuted or half-filled file from a good one, and a later change of
a network's code cannot tell that it reads old files wrongly. The fingerprint can: one fixed input
goes through the whole network, and a few weighted sums of everything that comes out are compared.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import InputError
from oeft_jax._types import Params
from oeft_jax.models import backbone as models
from oeft_jax.models import lpips
from oeft_jax.remember import KEPT, remember_described
from oeft_jax.weights import Weights, check_fits

HEADER = "golden"  # the key of the header
NUM_SUMS = 16
TOLERANCE = 2e-3  # of sums that are about 1; float32 on any device stays below 1e-4
IMAGE_SIZE = 144  # for feature networks: Inception's last map is 3 x 3, all its kernels count


@remember_described
def shapes(network: str, config: dict[str, Any], taps: tuple[str, ...] = ()) -> Params:
    """The parameters that a network of this description has, as a pytree with `.shape` leaves.

    Args:
      taps: of a feature network: those that need no deeper layers; all layers without any.
    Raises:
      InputError: no such network, or the description does not build one.
    """

    def init(key: jax.Array) -> Params:
        if taps:
            return models.backbone(network, config).init(key, taps)
        return _probe(network, config)[0](key)

    try:
        return jax.eval_shape(init, jax.random.key(0))
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise InputError(f"config {config} does not build a {network}.") from error


def fingerprint(network: str, config: dict[str, Any], params: Params) -> np.ndarray:
    """[NUM_SUMS] float64 of about 1: sums of all outputs for a fixed input, over their length."""
    run = _program(network, config)
    with jax.default_matmul_precision("highest"):
        output = np.asarray(run(params), np.float64).ravel()
    place = np.arange(output.size) + 1.0
    weights = (np.cos(place * np.sqrt(2 + index)) for index in range(NUM_SUMS))
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite fails the comparison
        length = np.sqrt(np.sum(output**2)) + 1e-30
        return np.array([weight @ output for weight in weights]) / length * np.sqrt(2)


@partial(remember_described, most=KEPT)
def _program(network: str, config: dict[str, Any]) -> Callable[[Params], jax.Array]:
    """Everything that comes out of a network of this description for the fixed input, compiled."""
    return jax.jit(_probe(network, config)[1])


def header(network: str, config: dict[str, Any], params: Params) -> dict[str, str]:
    """What to add to a weight file's header."""
    values = fingerprint(network, config, params)
    return {HEADER: json.dumps([round(float(value), 6) for value in values])}


def check(weights: Weights) -> None:
    """Raises InputError unless the weights are whole and compute what they did when written.

    A file without a fingerprint passes.
    """
    text = weights.metadata.get(HEADER)
    if text is None:
        return
    try:
        expected = np.array(json.loads(text), np.float64).reshape(NUM_SUMS)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{weights.origin}: its fingerprint is not readable.") from error
    check_fits(weights.params, shapes(weights.network, weights.config), weights.origin)
    found = fingerprint(weights.network, weights.config, weights.params)
    gap = np.max(np.abs(found - expected))
    if not gap <= TOLERANCE:
        raise InputError(
            f"{weights.origin}: does not compute what it computed when it was written "
            f"(fingerprint off by {gap:.2g}, accepted: {TOLERANCE:g}); convert or fetch it anew."
        )


def _probe(
    network: str, config: dict[str, Any]
) -> tuple[Callable[[jax.Array], Params], Callable[[Params], jax.Array]]:
    """(key -> random params, params -> outputs for a fixed input that reaches every parameter)."""
    if network in models.GENERATORS:
        generator = models.generator(network, config)
        return generator.init, lambda params: generator.sample(params, _codes(generator.z_dim))
    if network == "lpips":
        return lambda key: lpips.init(**config), lpips.probe
    net = models.backbone(network, config)
    last = net.tap_names[-1:]
    return lambda key: net.init(key, last), lambda params: net.apply(params, _image(), last)[
        last[0]
    ]


def _image() -> jax.Array:
    """Smooth, coloured and without symmetry. [1, s, s, 3] in [0, 1]."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] / IMAGE_SIZE
    waves = [np.sin(7 * x + 2 * y), np.cos(5 * y - 3 * x), np.sin(11 * x * y + 1)]
    return jnp.asarray(np.stack(waves, -1)[None] * 0.5 + 0.5, jnp.float32)


def _codes(dims: int) -> jax.Array:
    """[1, dims], of the size of standard normal ones."""
    return jnp.asarray(np.sqrt(2) * np.sin(1.7 * np.arange(1, dims + 1) ** 1.3)[None], jnp.float32)
