"""Best matches with their neighbours' say: the loops, in bands and whole, and what they are for."""

import numpy as np
import pytest
from oracles import correspondence as oracle

from oeft_jax import consensus
from oeft_jax.correlation import Matches


def draw(seed, side, grid, n=2, channels=5):
    rng = np.random.default_rng(seed)
    shapes = ((n, side**2, channels), (n, grid**2, channels))
    return Matches(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize(("side", "grid"), [(4, 4), (5, 3), (2, 6), (1, 1)])
def test_match_is_the_loops(side, grid, window):
    matches = draw(window, side, grid)
    found, weight = consensus.consensus_matches(matches, window=window, alpha=3.0)
    assert found.dtype == np.int32
    for n in range(2):
        sums = oracle.agreed(matches.source[n], matches.target[n], side, grid, window)
        np.testing.assert_array_equal(found[n], sums.argmax(axis=1))
        shares = np.exp(3 * sums / window**2)
        expected = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
        np.testing.assert_allclose(weight[n], expected, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 3.0, 100.0])
@pytest.mark.parametrize("whole", [True, False])
def test_weight_is_the_largest_of_the_softmax_at_any_sharpness(whole, alpha):
    matrix = np.random.default_rng(2).uniform(-1, 1, (2, 4, 9)).astype(np.float32)
    cells = np.broadcast_to(np.eye(9, dtype=np.float32), (2, 9, 9))
    matches = Matches(matrix, cells, matrix if whole else None)
    _, weight = consensus.consensus_matches(matches, window=1, alpha=alpha)
    shares = np.exp(alpha * matrix.astype(np.float64))
    expected = (shares / shares.sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(weight, expected, rtol=2e-5)
    assert np.all(weight > 0)
    assert np.all(weight <= 1 + 1e-6)


@pytest.mark.parametrize("held", [1, 700, 1400])
def test_in_bands_it_is_the_same(held, monkeypatch):
    matches = draw(9, 7, 5)
    whole = consensus.consensus_matches(matches, window=3, alpha=2.0)
    monkeypatch.setattr(consensus, "HELD", held)  # a row at a time, and bands that do not fit
    found = consensus.consensus_matches(matches, window=3, alpha=2.0)
    np.testing.assert_array_equal(found[0], whole[0])
    np.testing.assert_allclose(found[1], whole[1], rtol=1e-5)


def test_the_matrix_is_taken_where_it_is_there():
    matches = draw(4, 6, 5)
    matrix = np.einsum("npc,nqc->npq", matches.source, matches.target)
    apart = consensus.consensus_matches(matches, window=3, alpha=2.0)
    whole = consensus.consensus_matches(matches._replace(matrix=matrix), window=3, alpha=2.0)
    np.testing.assert_array_equal(whole[0], apart[0])
    np.testing.assert_allclose(whole[1], apart[1], rtol=1e-5)


def test_first_of_equals_wins():
    matches = Matches(np.ones((1, 9, 2), np.float32), np.ones((1, 16, 2), np.float32))
    best, weight = consensus.consensus_matches(matches, window=3, alpha=50.0)
    np.testing.assert_array_equal(best, np.zeros((1, 9)))
    np.testing.assert_allclose(weight, 1 / 16, rtol=1e-6)


def test_neighbours_tell_apart_what_looks_alike():
    """A texture that repeats, shifted, with one mark in it: alone most cells have many best matches."""
    side, rng = 12, np.random.default_rng(0)
    target = np.tile(rng.normal(size=(3, 3, 8)), (4, 4, 1))
    target += 0.3 * rng.normal(size=target.shape)
    source = np.roll(target, (1, 2), axis=(0, 1)) + 0.5 * rng.normal(size=target.shape)
    cells = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (source, target)]
    matches = Matches(*(x.reshape(1, side**2, -1).astype(np.float32) for x in cells))
    place = np.arange(side**2).reshape(side, side)
    right = np.roll(place, (1, 2), axis=(0, 1)).ravel()
    inside = np.zeros((side, side), bool)
    inside[3:-2, 4:-2] = True  # neither side's window reaches over a border or the seam
    shares = []
    for window in (1, 5):
        best, _ = consensus.consensus_matches(matches, window=window, alpha=1.0)
        shares.append(np.mean((best[0] == right)[inside.ravel()]))
    assert shares[0] < 0.7 < 0.95 < shares[1]
