"""The fingerprint of weights: the same on any machine, and no permuted or partial file passes it."""

import json

import jax
import numpy as np
import pytest
from tiny_networks import NETWORKS, random_params

from oeft_jax import golden, weights
from oeft_jax._checks import InputError


@pytest.fixture(params=sorted(NETWORKS))
def written(request, tmp_path):
    """(path, network, params) of a file with a fingerprint."""
    network, path = request.param, tmp_path / "net.safetensors"
    params = random_params(network)
    save(path, network, params, golden.header(network, NETWORKS[network], params))
    return path, network, params


def save(path, network, params, header):
    weights.save_weights(
        path, params, network=network, config=NETWORKS[network], metadata=header, dtype="float32"
    )


def test_what_was_written_passes(written):
    golden.check(weights.load_weights(written[0]))


def test_permuted_arrays_are_noticed(written):
    path, network, params = written
    header = {golden.HEADER: weights.load_weights(path).metadata[golden.HEADER]}
    leaves, tree = jax.tree.flatten(params)
    places = [place for place, leaf in enumerate(leaves) if leaf.ndim and leaf.shape[-1] > 1]
    some = places[:: len(places) // 4]
    assert len(some) >= 4
    for place in some:
        leaf = leaves[place]
        changed = [*leaves]
        changed[place] = np.roll(leaf, 1, axis=-1)
        save(path, network, jax.tree.unflatten(tree, changed), header)
        with pytest.raises(InputError, match="does not compute what it computed"):
            golden.check(weights.load_weights(path))


def test_half_a_file_is_refused_with_what_is_missing(written):
    path, network, params = written
    header = {golden.HEADER: weights.load_weights(path).metadata[golden.HEADER]}
    gone = sorted(params)[-1]
    save(path, network, {name: leaf for name, leaf in params.items() if name != gone}, header)
    with pytest.raises(InputError, match=f"missing {gone}"):
        golden.check(weights.load_weights(path))


def test_sums_are_of_order_one_and_differ_between_weights():
    first, second = (
        golden.fingerprint("vgg", NETWORKS["vgg"], random_params("vgg", seed)) for seed in (0, 1)
    )
    assert first.shape == (golden.NUM_SUMS,)
    assert 0.1 < np.sqrt(np.mean(first**2)) < 10
    assert np.abs(first - second).max() > 10 * golden.TOLERANCE


def test_file_without_a_fingerprint_passes(tmp_path):
    path = tmp_path / "net.safetensors"
    save(path, "vgg", random_params("vgg"), {})
    golden.check(weights.load_weights(path))


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(["a"] * 16), "[" * 100_000])
def test_unreadable_fingerprint_is_refused(tmp_path, text):
    path = tmp_path / "net.safetensors"
    save(path, "vgg", random_params("vgg"), {golden.HEADER: text})
    with pytest.raises(InputError, match="fingerprint is not readable"):
        golden.check(weights.load_weights(path))


def test_not_finite_outputs_do_not_pass(tmp_path):
    path = tmp_path / "net.safetensors"
    params = random_params("vgg")
    header = golden.header("vgg", NETWORKS["vgg"], params)
    huge = jax.tree.map(lambda leaf: leaf * np.float32(1e30), params)
    save(path, "vgg", huge, header)
    with pytest.raises(InputError, match="does not compute"):
        golden.check(weights.load_weights(path))


def test_description_of_no_network_is_refused():
    with pytest.raises(InputError, match="config"):
        golden.shapes("vgg", {"depths": "x", "widths": None})
