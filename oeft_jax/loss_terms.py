"""The terms of stage 1's loss (Eq. 11) that the settings name, and the taps that they look at."""

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import losses as L
from oeft_jax._types import Features, Taps
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.remember import remember
from oeft_jax.tiled import TILE
from oeft_jax.warp import warp_image


def phi_taps(config: CorrespondenceConfig) -> Taps:
    """Taps of the frozen network on the target and on the warp."""
    return tuple(sorted({*config.gram_taps, *config.contextual_taps}))


def structure_taps(config: CorrespondenceConfig) -> tuple[Taps, Taps]:
    """Taps of the structure loss and of the local one, none for a loss that is off."""
    whole = config.contextual_taps[-2:] if config.lambda_structure else ()
    local = config.gram_taps[:2] if config.lambda_local_structure else ()
    return whole, local


def structure_of(features: Features, whole: Taps, local: Taps) -> L.Structure:
    """What the structure losses compare the warp with, from features of the source."""
    return L.Structure(
        {tap: L.self_similarity(_at_most_32(features[tap])) for tap in whole},
        {tap: L.local_similarities(features[tap]) for tap in local},
    )


def _at_most_32(features: jax.Array) -> jax.Array:
    """A map as the cells that losses over all pairs of cells can afford."""
    return L.pooled_cells(features, 32)


def default_losses(config: CorrespondenceConfig) -> dict[str, tuple[float, L.LossFn]]:
    """The paper's losses and the two regularisers it announces, by name, with their lambdas.

    A dict of its own each time, of the same functions for the same settings.
    """
    return dict(_losses(config))


@remember
def _losses(config: CorrespondenceConfig) -> dict[str, tuple[float, L.LossFn]]:
    def contrastive(x: L.LossInputs) -> jax.Array:
        cells = x.source_cells.shape[1]
        number = config.num_queries or cells
        positives = jnp.arange(cells)
        if number < cells:
            positives = jax.random.permutation(x.key, cells)[:number]
        return L.info_nce(
            x.source_cells[:, positives],
            x.warped_cells,
            temperature=config.temperature,
            positives=positives,
            stop_gradient=config.stop_gradient,
            tile=config.tile or TILE,
        )

    def perceptual(x: L.LossInputs) -> jax.Array:
        taps = config.gram_taps
        each = [L.gram_loss(x.warped_phi[tap], L.gram(x.target_phi[tap])) for tap in taps]
        return jnp.mean(jnp.stack(each))

    def contextual(x: L.LossInputs) -> jax.Array:
        weights = 2.0 ** np.arange(len(config.contextual_taps))
        each = [
            L.contextual_loss(
                _at_most_32(x.target_phi[tap]),
                _at_most_32(x.warped_phi[tap]),
                bandwidth=config.contextual_bandwidth,
            )
            for tap in config.contextual_taps
        ]
        return jnp.sum(jnp.stack(each) * (weights / weights.sum()))

    def structure(x: L.LossInputs) -> jax.Array:
        each = [
            L.structure_loss(_at_most_32(x.warped_phi[tap]), of_source)
            for tap, of_source in x.source_structure.whole.items()
        ]
        return jnp.mean(jnp.stack(each))

    def local_structure(x: L.LossInputs) -> jax.Array:
        each = [
            L.local_structure_loss(x.warped_phi[tap], of_source)
            for tap, of_source in x.source_structure.local.items()
        ]
        return jnp.mean(jnp.stack(each))

    def cycle(x: L.LossInputs) -> jax.Array:
        back = x.matches.turned()
        again = warp_image(
            x.warped, back, alpha=config.alpha, mode=config.warp, tile=config.tile or TILE
        )
        return L.cycle_loss(again, x.target)

    def anchor(x: L.LossInputs) -> jax.Array:
        return L.anchor_loss(x.params, x.start_params)

    return {
        "contrastive": (config.lambda_contrastive, contrastive),
        "perceptual": (config.lambda_perceptual, perceptual),
        "contextual": (config.lambda_contextual, contextual),
        "structure": (config.lambda_structure, structure),
        "local_structure": (config.lambda_local_structure, local_structure),
        "cycle": (config.lambda_cycle, cycle),
        "anchor": (config.lambda_anchor, anchor),
    }
