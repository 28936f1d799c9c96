"""Pictures of a generator from one call and from the command line."""

import numpy as np
import pytest
from PIL import Image
from tiny_networks import NETWORKS, random_params

from oeft_jax import sample, weights
from oeft_jax._checks import InputError


@pytest.fixture
def style_file(tmp_path):
    path = tmp_path / "style.safetensors"
    weights.save_weights(
        path,
        random_params("stylegan"),
        network="stylegan",
        config=NETWORKS["stylegan"],
        dtype="float32",
    )
    return str(path)


def test_bundled_generator_gives_as_many_pictures_as_asked():
    images = sample.sample("bundled", 6, seed=3)
    assert images.shape[0] == 6
    assert images.shape[1] == images.shape[2] >= 64
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.abs(images[0] - images[5]).mean() > 0.01


def test_same_seed_same_pictures_however_many_are_asked(style_file):
    few, many = sample.sample(style_file, 2, seed=1), sample.sample(style_file, 4, seed=1)
    np.testing.assert_array_equal(few, many[:2])
    assert np.abs(few - sample.sample(style_file, 2, seed=2)).max() > 0.01


def test_full_truncation_gives_one_picture(style_file):
    images = sample.sample(style_file, 2, truncation_psi=0.0)
    np.testing.assert_allclose(images[0], images[1], atol=1e-6)
    images = sample.sample(style_file, 2, truncation_psi=1.0)
    assert np.abs(images[0] - images[1]).max() > 0.01


def test_random_noise_differs_between_pictures_and_follows_the_seed(style_file):
    options = {"truncation_psi": 0.0, "noise_mode": "random"}  # the same code for each
    images = sample.sample(style_file, 3, seed=4, **options)
    assert np.abs(images[0] - images[1]).max() > 0.01
    np.testing.assert_array_equal(images, sample.sample(style_file, 3, seed=4, **options))


def test_option_that_the_generator_lacks_is_refused():
    with pytest.raises(InputError, match="bundled:generator: .*truncation_psi"):
        sample.sample("bundled", 1, truncation_psi=0.5)


def test_sheet_holds_every_picture_and_is_white_elsewhere():
    images = np.stack([np.full((2, 2, 3), value, np.float32) for value in (0.1, 0.2, 0.3)])
    sheet = sample.contact_sheet(images)
    assert sheet.shape == (4, 4, 3)
    np.testing.assert_array_equal(sheet[::2, ::2, 0], np.float32([[0.1, 0.2], [0.3, 1.0]]))


def test_command_writes_a_picture_once(style_file, tmp_path, capsys):
    out = tmp_path / "s.png"
    words = ["--weights", style_file, "--out", str(out), "--num", "3", "--noise-mode", "none"]
    assert sample.main(words) == 0
    assert Image.open(out).size == (16, 16)
    assert "3 pictures of 8 px" in capsys.readouterr().out
    assert sample.main(words) == 2
    assert "accepted: a new name, or --overwrite" in capsys.readouterr().err
    assert sample.main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize("bad", [["--num", "0"], ["--weights", "nothing"], ["--out", "x.jpg"]])
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, bad):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path))
    assert sample.main(["--out", str(tmp_path / "s.png"), *bad]) == 2
    assert "accepted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
