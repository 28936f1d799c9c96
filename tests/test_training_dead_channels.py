"""Channels that no picture wakes: which they are, and how they begin again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_picture import picture
from tiny_teachers import write_teachers

from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone
from oeft_jax.weights import load_weights, save_weights
from training import dead_channels, distill_features

pytestmark = pytest.mark.usefixtures("quick_random")

CONFIG = {"depths": (2, 1, 1, 1, 1), "widths": (6, 5, 5, 5, 6)}
NETWORK = backbone("vgg", CONFIG)
DEAD = {"relu1_1": [1, 4], "relu2_1": [0], "relu5_1": [5]}


@pytest.fixture
def awake(key):
    """A network all of whose channels speak."""
    made = NETWORK.init(key, ("relu5_1",))
    return {
        name: {"kernel": 0.1 * layer["kernel"], "bias": layer["bias"] + 1}
        for name, layer in made.items()
    }


@pytest.fixture
def params(awake):
    """One in which some channels can never say anything."""
    made = {name: dict(layer) for name, layer in awake.items()}
    for tap, channels in DEAD.items():
        layer = made["conv" + tap.removeprefix("relu")]
        layer["bias"] = layer["bias"].at[np.array(channels)].set(-1e3)
    return made


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, 48, 48, 3)), jnp.float32)


def dead_of(params, images):
    found = dead_channels.loudness(NETWORK, params, images)
    return {tap: np.flatnonzero(one.dead).tolist() for tap, one in found.items() if one.dead.any()}


def test_the_dead_are_found_and_the_size_is_that_of_the_others(params, images):
    assert dead_of(params, images) == DEAD
    value = np.asarray(NETWORK.apply(params, images, ("relu1_1",))["relu1_1"], np.float64)
    awake = value[..., [0, 2, 3, 5]]
    found = dead_channels.loudness(NETWORK, params, images)["relu1_1"]
    np.testing.assert_allclose(found.size, np.sqrt(np.mean(awake**2)), rtol=1e-6)


def test_a_channel_that_says_little_is_not_dead(params, images):
    quiet = params["conv3_1"]
    quiet["kernel"] = quiet["kernel"].at[..., 2].multiply(0.05)
    quiet["bias"] = quiet["bias"].at[2].multiply(0.05)
    assert "relu3_1" not in dead_of(params, images)


def test_the_revived_are_awake_and_the_others_say_what_they_said(params, images, key):
    made, counts = dead_channels.revived(key, NETWORK, params, images)
    assert counts == {tap: len(DEAD.get(tap, [])) for tap in NETWORK.tap_names}
    assert dead_of(made, images) == {}
    before, after = (NETWORK.apply(one, images, NETWORK.tap_names) for one in (params, made))
    sizes = dead_channels.loudness(NETWORK, params, images)
    for tap, value in before.items():
        dead = DEAD.get(tap, [])
        awake = np.setdiff1d(np.arange(value.shape[-1]), dead)
        np.testing.assert_array_equal(after[tap][..., awake], value[..., awake])
        for channel in dead:
            said = np.asarray(after[tap][..., channel])
            assert 0.1 < np.mean(said > 0) < 0.9
            # Centred, of a deviation of the layer's size: about half of its square is over zero.
            assert 0.3 < np.sqrt(np.mean(said**2)) / sizes[tap].size < 1


def test_channels_after_the_deepest_tap_stay_as_they_are(params, images, key):
    made, counts = dead_channels.revived(key, NETWORK, params, images, deepest="relu2_1")
    assert {tap: num for tap, num in counts.items() if num} == {"relu1_1": 2, "relu2_1": 1}
    assert dead_of(made, images) == {"relu5_1": DEAD["relu5_1"]}
    for name in ("conv4_1", "conv5_1"):
        jax.tree.map(np.testing.assert_array_equal, made[name], params[name])
    before, after = (NETWORK.apply(one, images, ("relu5_1",))["relu5_1"] for one in (params, made))
    np.testing.assert_array_equal(after, before)


def test_the_revived_get_a_slope_once_they_are_read(params, images, key):
    made, _ = dead_channels.revived(key, NETWORK, params, images)

    def loss(params):
        return jnp.mean(NETWORK.apply(params, images, ("relu5_1",))["relu5_1"] ** 2)

    dead = np.array(DEAD["relu1_1"])
    reader = jax.grad(loss)(made)["conv1_2"]["kernel"]
    assert np.abs(reader[:, :, dead]).max() > 0  # the first step reads them
    assert np.abs(jax.grad(loss)(params)["conv1_2"]["kernel"][:, :, dead]).max() == 0
    made["conv1_2"]["kernel"] = made["conv1_2"]["kernel"] + 0.1 * reader
    assert np.abs(jax.grad(loss)(made)["conv1_1"]["kernel"][..., dead]).max() > 0


def test_a_network_without_dead_channels_stays_as_it_is(awake, images, key):
    made, counts = dead_channels.revived(key, NETWORK, awake, images)
    assert not any(counts.values())
    jax.tree.map(np.testing.assert_array_equal, made, awake)


def test_distillation_revives_where_it_is_asked_to(params, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    write_teachers(tmp_path, rng)
    (tmp_path / "cut").mkdir()
    picture(rng, 64).save(tmp_path / "cut" / "photo.png")
    monkeypatch.setattr(distill_features, "CONFIG", CONFIG)
    monkeypatch.setattr(distill_features, "WIDTHS", CONFIG["widths"])
    monkeypatch.setattr(distill_features, "NUM_FITTED", 2)
    start = tmp_path / "start.safetensors"
    save_weights(start, params, network="vgg", config=CONFIG)
    before = load_weights(start).params

    def changed(*more):
        words = {"data": tmp_path, "start": start, "work": tmp_path / f"work{len(more)}"}
        words |= {"out": tmp_path / "out.safetensors", "faces": 0, "frozen-steps": 1}
        words |= {"steps": 1, "batch": 1, "size": 32, "matching": 0}
        flags = [word for k, v in words.items() for word in (f"--{k}", str(v))]
        state = distill_features.train(distill_features.parse([*flags, *more]))
        return {
            name: np.flatnonzero(np.any(layer["kernel"] != before[name]["kernel"], (0, 1, 2)))
            for name, layer in state.params.items()
        }

    assert not any(channels.size for channels in changed().values())
    assert "begun again" not in capsys.readouterr().out
    found = changed("--revive")
    assert "begun again: 2 of relu1_1 1 of relu2_1 1 of relu5_1" in capsys.readouterr().out
    for tap, dead in DEAD.items():
        assert found["conv" + tap.removeprefix("relu")].tolist() == dead

    found = changed("--frozen-steps", "0", "--hold", "conv1_1", "conv2_1")
    assert {name for name, channels in found.items() if not channels.size} == {"conv1_1", "conv2_1"}


def test_nothing_is_begun_again_without_a_weight_file(tmp_path):
    words = ["--data", "d", "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o"), "--revive"]
    with pytest.raises(InputError, match=r"--revive: accepted: with --start"):
        distill_features.train(distill_features.parse(words))
