"""What the feature network is shown."""

import numpy as np
import pytest
from PIL import Image
from smooth_picture import picture

from training import (
    photos,
)


def test_a_batch_holds_each_photo_twice_and_differently():
    flat = [[Image.new("RGB", (64, 64), (grey, grey, grey)) for grey in (10, 130, 250)]]
    rng = np.random.default_rng(0)
    photo = [[picture(rng, 64)]]
    first, second = photos.crop_batch(0, 0, photo, batch=2, size=32)
    assert np.abs(first - second).mean() > 1e-3
    assert photos.crop_batch(0, 0, flat, batch=5, size=8).shape == (5, 8, 8, 3)


def test_sets_of_photos_are_drawn_by_the_square_root_of_their_size(monkeypatch):
    monkeypatch.setattr(photos, "random_crop", lambda rng, photo, size: np.asarray(photo))
    many, one = ([Image.new("L", (1, 1), grey)] * number for grey, number in ((0, 16), (1, 1)))
    drawn = [photos.crop_batch(0, step, [many, one], batch=1, size=1) for step in range(400)]
    assert np.mean(drawn) == pytest.approx(1 / 5, abs=0.06)


def test_a_mixed_picture_holds_a_box_of_the_other_or_both_seen_through():
    image, other = np.zeros((16, 16, 3), np.float32), np.ones((16, 16, 3), np.float32)
    kinds = set()
    for seed in range(20):
        mixed = photos.mix(np.random.default_rng(seed), image, other)
        rows, columns = (np.flatnonzero(mixed[..., 0].any(axis=axis)) for axis in (1, 0))
        if mixed.max() == 1:
            assert mixed[..., 0].sum() == len(rows) * len(columns)  # a whole box, nothing else
            assert 4 <= len(rows) < 12
            assert 4 <= len(columns) < 12
        else:
            assert 0.3 <= mixed.min() == mixed.max() <= 0.7
        kinds.add(mixed.max() == 1)
        assert mixed.dtype == np.float32
    assert kinds == {True, False}


def test_as_many_pictures_are_mixed_as_asked(monkeypatch):
    monkeypatch.setattr(photos, "random_crop", lambda rng, photo, size: np.asarray(photo))
    monkeypatch.setattr(photos, "mix", lambda rng, image, other: image + 1)
    flat = [[Image.new("L", (1, 1), 0)]]
    for share in (0, 0.25, 1):
        drawn = [
            photos.crop_batch(0, step, flat, batch=1, size=1, mixed=share) for step in range(400)
        ]
        assert np.mean(drawn) == pytest.approx(share, abs=0.06)
