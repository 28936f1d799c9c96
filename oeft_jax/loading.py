"""Weights to a network that is whole and computes what it did when its file was written."""

from collections.abc import Callable
from typing import Any

from oeft_jax import golden
from oeft_jax._checks import InputError
from oeft_jax.models import backbone as models
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.weights import Weights, check_fits, find_weights


def load_features(name: str, taps: set[str], role: str = "features") -> tuple[Weights, Backbone]:
    """The feature network that a setting names; deeper layers than the taps need may be missing.

    Args:
      name: as `find_weights` takes it.
      taps: those that will be read.
      role: what the network is for, a key of ROLES.

    Raises:
      InputError: no such weights, damaged, of another kind, or without these taps.
    """
    weights = find_weights(name, role)
    backbone = _named(weights, lambda: models.backbone(weights.network, weights.config))
    wanted = tuple(sorted(taps))
    like = _named(weights, lambda: golden.shapes(weights.network, weights.config, wanted))
    held = {name: weights.params.get(name, {}) for name in like}
    check_fits(held, like, weights.origin)
    golden.check(weights)
    return weights, backbone


def load_generator(name: str, **options: Any) -> tuple[Weights, Generator]:
    """The generator that a setting names.

    Args:
      options: take the place of the file's own (truncation_psi, noise_mode, ...).
    Raises:
      InputError: no such weights, damaged, of another kind, or options that it does not have.
    """
    weights = find_weights(name, "generator")
    config = {**weights.config, **options}
    generator = _named(weights, lambda: models.generator(weights.network, config))
    like = _named(weights, lambda: golden.shapes(weights.network, weights.config))
    check_fits(weights.params, like, weights.origin)
    golden.check(weights)
    return weights, generator


def _named(weights: Weights, build: Callable[[], Any]) -> Any:
    """What `build` makes; its errors say which file they are about."""
    try:
        return build()
    except InputError as error:
        raise InputError(f"{weights.origin}: {error}") from error
