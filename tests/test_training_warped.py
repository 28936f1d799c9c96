"""Training on random warps: the loss against loops, and the places that it says belong together."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import aligned, warped


def test_cross_entropy_is_the_loops(x64):
    rng = np.random.default_rng(0)
    n, grid, channels, places, size = 2, 4, 3, 5, 16
    photo, view = rng.normal(size=(2, n, grid, grid, channels))
    meant = rng.uniform(-3, size + 2, (n, places, 2))
    asked = rng.uniform(0, size - 1, (n, places, 2))
    total, count = 0.0, 0
    for image in range(n):
        cells = photo[image].reshape(-1, channels)
        cells = cells - cells.mean(axis=0)
        cells = cells / np.sqrt((cells**2).sum(axis=1, keepdims=True) + 1e-6)
        seen = view[image] - view[image].mean(axis=(0, 1))
        for place, truth in zip(asked[image], meant[image], strict=True):
            if truth.min() < 0 or truth.max() > size - 1:
                continue
            query = np.zeros(channels)
            weights = np.zeros(grid * grid)
            for row in range(grid):
                for column in range(grid):
                    query += share(place, row, column, grid, size) * seen[row, column]
                    weights[row * grid + column] = share(truth, row, column, grid, size)
            query = query / np.sqrt((query**2).sum() + 1e-6)
            logits = cells @ query / warped.TEMPERATURE
            total -= weights @ (logits - np.log(np.exp(logits).sum()))
            count += 1
    assert 0 < count < n * places
    got = warped.cross_entropy(*(jnp.asarray(x) for x in (photo, view, meant, asked)), size)
    assert float(got) == pytest.approx(total / count, rel=1e-9)


def share(place, row, column, grid, size):
    """A cell's weight in the bilinear value at a place in pixels, clamped to the outer centres."""
    value = 1.0
    for at, index in zip(place, (row, column), strict=True):
        at = min(max((at + 0.5) * grid / size - 0.5, 0), grid - 1)
        value *= max(0.0, 1 - abs(at - index))
    return value


def test_a_view_shows_at_a_place_what_the_photo_shows_where_it_is_meant(key, monkeypatch):
    monkeypatch.setattr(warped, "photometric", lambda key, images, ranges: images)
    size = 32
    row, column = np.mgrid[:size, :size] / size
    photo = jnp.asarray(np.stack([row, column, row * 0.5 + 0.2], axis=-1), jnp.float32)
    views, matrices = jax.jit(warped.warped_views)(key, jnp.stack([photo, photo]))
    assert not np.allclose(views[0], views[1], atol=0.02)
    for view, matrix in zip(np.asarray(views), np.asarray(matrices), strict=True):
        meant = np.einsum("ij,rcj->rci", matrix[:2, :2], np.mgrid[:size, :size].transpose(1, 2, 0))
        meant = meant + matrix[:2, 2]
        inside = np.all((meant >= 0) & (meant <= size - 1), axis=-1)
        assert inside.mean() > 0.2
        np.testing.assert_allclose(view[inside][:, :2] * size, meant[inside], atol=2e-3)


def test_gaussian_weights_sum_to_one_around_their_place(x64):
    grid, size, spread = 16, 64, 5.0
    places = jnp.array([[[30.0, 22.5], [31.5, 40.0]]])
    weights = np.asarray(warped.gaussian(places, grid, size, spread))[0].reshape(2, grid, grid)
    centres = (np.arange(grid) + 0.5) * size / grid - 0.5
    for place, weight in zip(np.asarray(places)[0], weights, strict=True):
        near = [np.exp(-((centres - at) ** 2) / (2 * spread**2)) for at in place]
        whole = np.outer(*near)
        np.testing.assert_allclose(weight, whole / whole.sum(), rtol=1e-9)
        for axis, at in enumerate(place):
            share = weight.sum(axis=1 - axis)
            assert share @ centres == pytest.approx(at, abs=0.05)
            assert share @ (centres - at) ** 2 == pytest.approx(spread**2, rel=0.05)


SIZE = 64
TURNS = np.mgrid[:SIZE, :SIZE].transpose(1, 2, 0) * np.pi / SIZE
WAVES = np.concatenate([np.cos(TURNS), np.sin(TURNS), np.cos(3 * TURNS), np.sin(3 * TURNS)], -1)


def coordinates():
    """A picture whose colours say where a pixel comes from. [s, s, 3]."""
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    return jnp.asarray(np.stack([row, column, row], axis=-1), jnp.float32)


def told_places(params, images, taps):
    """Features: local means of what the first two channels say about where a pixel comes from."""
    at = jnp.round(images[..., :2] * SIZE).astype(int)
    seen = jnp.asarray(WAVES, jnp.float32)[at[..., 0], at[..., 1]]
    n = len(images)
    sides = {tap: 2 ** (int(tap[4]) - 1) for tap in taps}
    return {
        tap: seen.reshape(n, SIZE // s, s, SIZE // s, s, -1).mean(axis=(2, 4))
        for tap, s in sides.items()
    }


def test_features_that_know_their_place_are_found_and_others_are_not(key, monkeypatch):
    monkeypatch.setattr(warped, "photometric", lambda key, images, ranges: images)
    photo = coordinates()[None]
    features = told_places(None, photo, warped.JOINED)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def matched(features):
        terms = warped.matching_terms(key, told_places, None, photo, features)
        return sum(terms.values()), terms

    (_, found), slope = matched(features)
    assert set(found) == {f"{tap} matching" for tap in (*warped.ALONE, "joined")}
    turned = {tap: x[:, ::-1, ::-1] for tap, x in features.items()}
    (_, missed), _ = matched(turned)
    for name, value in found.items():
        assert value < 0.6 * missed[name]
    assert all(np.abs(x).max() > 0 for x in slope.values())


def test_aligned_faces_ask_for_the_same_place_of_the_partner(key, monkeypatch):
    monkeypatch.setattr(warped, "photometric", lambda key, images, ranges: images)
    face = coordinates()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def matched(faces):
        terms = aligned.matching_terms(key, told_places, None, faces)
        return sum(terms.values()), terms

    (_, found), _ = matched(jnp.stack([face, face, face, face]))
    assert set(found) == {f"{tap} faces" for tap in (*aligned.ALONE, "joined")}
    (_, partly), _ = matched(jnp.stack([face, face, face, face[::-1]]))  # one pair of two is alike
    (_, missed), _ = matched(jnp.stack([face, face, face[::-1], face[:, ::-1]]))
    for name, value in found.items():
        assert value < partly[name] < missed[name]
        assert value < 0.8 * missed[name]
