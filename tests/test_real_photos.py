"""Ground truth on real photos; skipped where they are absent."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oeft_jax import correspondence as cft
from oeft_jax.augment import Geometric, affine, affine_matrix
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import Scales, layer_scales
from oeft_jax.image import fit_square, read_image
from oeft_jax.models.backbone import backbone
from oeft_jax.weights import load_bundled

SIZE, GRID = 128, 32
CONFIG = CorrespondenceConfig(image_size=SIZE, grid=GRID)


@pytest.fixture(scope="module")
def matcher():
    """(source, target) -> the best target cell of each source cell, under the bundled network."""
    weights = load_bundled("features")
    network = backbone(weights.network, weights.config)

    @jax.jit
    def best(source, target):
        params = {"shared": weights.params}
        seen = [network.apply(weights.params, image, CONFIG.taps) for image in (source, target)]
        scales = Scales(*(layer_scales(x, CONFIG.layer_scale) for x in seen))
        matches, _ = cft.correlate(params, source, target, scales, backbone=network, config=CONFIG)
        return consensus_matches(matches, window=CONFIG.consensus, alpha=CONFIG.alpha)[0][0]

    return best


@pytest.mark.parametrize("pair", [0, 5, 32])
def test_bundled_features_find_a_known_warp_of_a_real_photo(pair, shared_data, matcher):
    entry = json.loads((shared_data / "pairs.json").read_text())[pair]
    photo = fit_square(read_image(shared_data / entry["content"], at_least=SIZE), SIZE)
    matrix = affine_matrix(jax.random.key(pair), SIZE, Geometric())
    target = affine(jnp.asarray(photo), matrix)
    found = np.asarray(matcher(jnp.asarray(photo)[None], target[None]))
    side = SIZE // GRID
    rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
    centres = np.stack([rows, columns]) * side + (side - 1) / 2
    linear, shift = np.asarray(matrix)[:2, :2], np.asarray(matrix)[:2, 2:]
    expected = np.linalg.inv(linear) @ (centres - shift)  # matrix maps target to source pixels
    inside = np.all((expected >= 0) & (expected <= SIZE - 1), axis=0)
    assert inside.sum() > GRID * GRID / 2
    got = np.stack(np.divmod(found, GRID)) * side + (side - 1) / 2
    error = np.linalg.norm(got - expected, axis=0)[inside]
    identity = np.linalg.norm(centres - expected, axis=0)[inside]
    assert np.median(error) < np.median(identity)  # better than not moving at all
    assert np.mean(error <= 0.1 * SIZE) > 0.6  # PCK@0.1
