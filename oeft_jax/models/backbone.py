"""Feature networks and generators built from a weight file's description of itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oeft_jax._checks import InputError, check_choice
from oeft_jax._types import FeatureFn, Params, Taps
from oeft_jax.models.alexnet import AlexNet
from oeft_jax.models.generator import Generator
from oeft_jax.models.inception import Inception
from oeft_jax.models.pggan import pggan
from oeft_jax.models.resnet import ResNet
from oeft_jax.models.squeezenet import SqueezeNet
from oeft_jax.models.stylegan import stylegan
from oeft_jax.models.stylegan2 import stylegan2
from oeft_jax.models.vgg import VGG
from oeft_jax.models.vit import ViT
from oeft_jax.remember import remember_described


class Backbone(NamedTuple):
    """A feature network F(x; W) of Eq. 1-2."""

    name: str
    apply: FeatureFn  # (params, images [n, h, w, 3] in [0, 1], taps) -> features
    init: Callable[[jax.Array, Taps], Params]  # (key, taps) -> random params, as deep as the taps
    tap_names: tuple[str, ...] = ()  # all taps, shallow to deep


FEATURE_NETWORKS: dict[str, Any] = {
    "vgg": VGG,
    "resnet": ResNet,
    "inception": Inception,
    "alexnet": AlexNet,
    "squeezenet": SqueezeNet,
    "vit": ViT,
}
GENERATORS: dict[str, Callable[..., Generator]] = {
    "pggan": pggan,
    "stylegan": stylegan,
    "stylegan2": stylegan2,
}


@remember_described
def backbone(network: str, config: dict[str, Any]) -> Backbone:
    """The feature network that a weight file describes: a key of FEATURE_NETWORKS and its fields.

    The same object for the same description, so that what is compiled of it is compiled once.

    Raises:
      InputError: another network, or a description that does not build one.
    """
    check_choice("network", network, FEATURE_NETWORKS)
    try:
        model = FEATURE_NETWORKS[network](
            **{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
        )
        tap_names = model.tap_names()
    except TypeError as error:
        raise InputError(f"{network}: config {config} does not describe a network.") from error

    def apply(params: Params, images: jax.Array, taps: Taps) -> dict[str, jax.Array]:
        features = model.apply({"params": params}, images, tuple(taps))
        for tap, value in features.items():
            if not value.size:
                size = f"{images.shape[1]} x {images.shape[2]}"
                raise InputError(f"images of {size} pixels leave nothing at {tap} of {network}.")
        return features

    def init(key: jax.Array, taps: Taps) -> Params:
        return model.init(key, jnp.zeros((1, 64, 64, 3)), tuple(taps))["params"]

    return Backbone(network, apply, init, tap_names)


@remember_described
def generator(network: str, config: dict[str, Any]) -> Generator:
    """The generator that a weight file describes: a key of GENERATORS and its options; as `backbone`."""
    check_choice("network", network, GENERATORS)
    try:
        return GENERATORS[network](**config)
    except TypeError as error:
        raise InputError(f"{network}: config {config} does not describe a generator.") from error


def used_params(network: Backbone, params: Params, taps: Taps) -> Params:
    """The part of `params` that the taps depend on, so that nothing unused is tuned or saved."""
    like = jax.eval_shape(lambda key: network.init(key, taps), jax.random.key(0))
    return {name: params[name] for name in like if name in params}
