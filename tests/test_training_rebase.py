"""Teaching a feature network's first layers anew, and how the real teacher pads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_picture import picture
from tiny_teachers import real_teacher, write_teachers

from oeft_jax.models.backbone import backbone
from oeft_jax.weights import load_weights, save_weights
from training import distill_features, rebase_features, teachers

pytestmark = pytest.mark.usefixtures("quick_random")

CONFIG = {"depths": (2, 2, 2, 2, 1), "widths": (2, 2, 3, 3, 4)}
LEARN = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv4_1")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (distill_features, rebase_features):
        monkeypatch.setattr(module, "CONFIG", CONFIG)
    monkeypatch.setattr(rebase_features, "NUM_FITTED", 2)
    smaller = [
        stage._replace(batch=batch, size=32)
        for stage, batch in zip(rebase_features.STAGES, (2, 2, 2, 1), strict=True)
    ]
    monkeypatch.setattr(rebase_features, "STAGES", tuple(smaller))


@pytest.fixture(scope="module")
def before():
    """Weights of the usual generator: of others a layer may say next to nothing."""
    key = jax.random.key(0, impl="threefry2x32")
    return jax.jit(lambda key: backbone("vgg", CONFIG).init(key, ("relu5_1",)))(key)


def rms(value):
    return float(jnp.sqrt(jnp.mean(value**2)))


@pytest.mark.parametrize(("reflected", "mode"), [(False, "constant"), (True, "reflect")])
def test_the_real_teacher_pads_as_asked(reflected, mode):
    torch = pytest.importorskip("torch")
    arrays = real_teacher(np.random.default_rng(0))
    image = np.random.default_rng(1).random((1, 12, 16, 3), np.float32)
    found = teachers.vgg_features(arrays, jnp.asarray(image), reflected=reflected)
    x = torch.tensor(image).permute(0, 3, 1, 2)
    expected = []
    for name in ("2", "5", "pool", "9", "12", "pool", "16"):
        if name == "pool":
            x = torch.nn.functional.max_pool2d(x, 2)
            continue
        weight, bias = (torch.tensor(arrays[f"{name}.{part}"]) for part in ("weight", "bias"))
        padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode=mode)
        x = torch.relu(torch.nn.functional.conv2d(padded, weight, bias))
        if name in ("2", "9", "16"):
            expected.append(x.permute(0, 2, 3, 1).numpy())
    for value, tap in zip(expected, rebase_features.TAUGHT, strict=True):
        np.testing.assert_allclose(found[tap], value, rtol=1e-4, atol=1e-5 * value.max())


def losses(keep, similarity, *arguments):
    """(total, terms) of the training's loss."""
    weights = rebase_features.Weights(keep, similarity)
    call = jax.jit(lambda *xs: rebase_features.loss_fn(*xs, weights, jax.random.key(3)))
    return call(*arguments)


def cosines(rows):
    """Centred cosines of all pairs of rows [n, c], in float64."""
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(axis=0)
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows])


def test_similarities_ask_for_what_heads_make_up_for(before, monkeypatch):
    """A channel that is said too loud is as good for its head, but not for cosines."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((1, 16, 16, 3)), jnp.float32)
    apply = backbone("vgg", CONFIG).apply
    taught = apply(before, images, ("relu3_1",))
    loud = {name: part.at[..., 0].multiply(8.0) for name, part in before["conv3_1"].items()}
    loud = {**before, "conv3_1": loud}
    head = {"kernel": jnp.diag(jnp.array([1 / 8, 1.0, 1.0])), "bias": jnp.zeros(3)}
    # Every place once, so that the mean over pairs needs no draw.
    monkeypatch.setattr(distill_features, "NUM_POSITIONS", 16)
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.arange(high))
    _, terms = losses(1.0, 5.0, (loud, {"relu3_1": head}), images, taught, {})
    own = apply(loud, images, ("relu3_1",))["relu3_1"]
    own, target = (cosines(x.reshape(16, 3)) for x in (own, taught["relu3_1"]))
    expected = 5.0 * np.mean((own - target) ** 2)
    assert set(terms) == {"relu3_1", "relu3_1 similarity"}
    assert float(terms["relu3_1"]) < 1e-6 < 1e-2 < expected
    np.testing.assert_allclose(terms["relu3_1 similarity"], expected, rtol=1e-3)


def test_errors_of_what_is_kept_are_in_its_own_variance_and_weighed(before):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((2, 32, 32, 3)), jnp.float32)
    taps = (*rebase_features.TAUGHT, *rebase_features.kept_taps())
    assert taps[3:] == ("relu3_2", "relu4_1")
    features = backbone("vgg", CONFIG).apply(before, images, taps)
    heads, taught, kept, expected = {}, {}, {}, {}
    for tap, value in features.items():
        own = np.asarray(value, np.float64)
        if tap in rebase_features.TAUGHT:
            kernel, bias = rng.normal(size=(own.shape[-1], 5)), rng.normal(size=5)
            heads[tap] = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
            own = np.maximum(own @ kernel + bias, 0)
        target = rng.random(own.shape)
        (taught if tap in heads else kept)[tap] = jnp.float32(target)
        variance = target.reshape(-1, target.shape[-1]).var(axis=0).mean()
        expected[tap] = (1 if tap in heads else 3) * np.mean((own - target) ** 2) / variance
    total, terms = losses(3.0, 0.0, (before, heads), images, taught, kept)
    assert set(terms) == set(taps)
    for tap, value in expected.items():
        np.testing.assert_allclose(terms[tap], value, rtol=1e-4)
    np.testing.assert_allclose(total, sum(expected.values()), rtol=1e-4)


def test_the_next_layer_reads_the_old_channels_out_of_new_ones(before):
    """New channels that are the old ones in another order and size say all that those said."""
    order, size = np.array([2, 0, 1]), np.float32([0.5, 2.0, 3.0])
    turned = {
        name: part[..., order] * size.reshape((1,) * (part.ndim - 1) + (3,))
        for name, part in before["conv3_1"].items()
    }
    rng = np.random.default_rng(0)
    images = jnp.asarray(np.stack([np.asarray(picture(rng, 64)) for _ in range(2)]) / 255.0)
    images = images.astype(jnp.float32)
    found = rebase_features.read_anew({**before, "conv3_1": turned}, before, images, "relu3_1")
    apply = backbone("vgg", CONFIG).apply
    was = apply(before, images, ("relu3_2",))["relu3_2"]
    unread = apply({**before, "conv3_1": turned}, images, ("relu3_2",))["relu3_2"]
    read = apply(found, images, ("relu3_2",))["relu3_2"]
    assert rms(read - was) < 0.03 * rms(was) < 0.3 * rms(unread - was)


@pytest.fixture
def folder(tmp_path):
    """With both teachers and a photo."""
    rng = np.random.default_rng(0)
    write_teachers(tmp_path, rng)
    (tmp_path / "cut").mkdir()
    picture(rng, 64).save(tmp_path / "cut" / "photo.png")
    return tmp_path


def trained(folder, start, name, *more):
    """(state, weights written) of the command."""
    words = {"data": folder, "start": start, "work": folder / name}
    words |= {"out": folder / f"{name}.safetensors", "faces": 0}
    flags = [word for k, v in words.items() for word in (f"--{k}", str(v))]
    state = rebase_features.train(rebase_features.parse([*flags, *more]))
    return state, load_weights(folder / f"{name}.safetensors")


def changed(params, before):
    return {k for k in before if np.any(params[k]["kernel"] != before[k]["kernel"])}


def test_without_the_first_stages_the_layers_learn_on(folder, before, capsys):
    dead = before["conv2_1"]["bias"].at[1].set(-1e3)
    before = {**before, "conv2_1": {**before["conv2_1"], "bias": dead}}
    start = folder / "start.safetensors"
    save_weights(start, before, network="vgg", config=CONFIG)
    before = load_weights(start).params
    steps = ("--steps", "0", "0", "1", "0")
    state, weights = trained(folder, start, "on", *steps, "--revive")
    assert "begun again: 1 of relu2_1" in capsys.readouterr().out
    assert changed(weights.params, before) == set(LEARN[:5])
    rate = rebase_features.STAGES[2].rate
    moved = np.abs(weights.params["conv1_1"]["kernel"] - before["conv1_1"]["kernel"])
    assert 0 < moved.max() < 1.1 * rate  # one step of Adam from what it was
    assert weights.params["conv2_1"]["bias"][1] > -1
    for head in state.heads.values():
        assert float(jnp.abs(head["kernel"]).max()) > 0.0
    assert trained(folder, start, "as it was", *steps)[1].params["conv2_1"]["bias"][1] < -900


def test_a_stage_fits_what_no_stage_before_it_did(before):
    vgg = real_teacher(np.random.default_rng(0))
    images = jnp.asarray(np.random.default_rng(1).random((2, 32, 32, 3)), jnp.float32)
    first = jax.tree.map(lambda x: 2 * x, before["conv1_1"])
    state = rebase_features.init({**before, "conv1_1": first}, vgg)
    stage = rebase_features.STAGES[2]
    found = rebase_features.begin(state, before, images, vgg, stage, "relu1_1")
    assert changed(found.params, before) == {"conv1_1", "conv1_2"}  # and the one that reads it
    assert {tap for tap, head in found.heads.items() if np.any(head["kernel"])} == {
        "relu2_1",
        "relu3_1",
    }


def test_first_layers_learn_anew_and_then_all_to_the_last_one(folder, before):
    start = folder / "start.safetensors"
    save_weights(start, before, network="vgg", config=CONFIG)
    before = load_weights(start).params

    def run(name, *more):
        return trained(folder, start, name, "--steps", "1", "1", "2", "1", *more)

    whole, weights = run("whole")
    assert int(whole.step) == 5
    assert changed(weights.params, before) == set(LEARN)
    assert weights.metadata == {"steps": "5", "images": str(2 + 2 + 4 + 1), "seed": "0"}
    apply = backbone(weights.network, weights.config).apply
    assert apply(weights.params, jnp.zeros((1, 32, 32, 3)), ("relu5_1",))["relu5_1"].shape[-1] == 4

    learnt = (1, 3, 5, 5, 7)  # layers after every step; the next one reads anew only then
    for done, num in enumerate(learnt, 1):  # stopped after every step
        again, weights = run("again", "--minutes", "1e-9")
        assert int(again.step) == done
        assert changed(weights.params, before) == set(LEARN[:num])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_first_layers_learn_by_a_share_of_the_last_rate(folder, before):
    start = folder / "start.safetensors"
    save_weights(start, before, network="vgg", config=CONFIG)

    def params(name, share, last):
        flags = ("--steps", "0", "0", "1", last, "--first-share", share)
        return trained(folder, start, name, *flags)[0].params  # not rounded, as the file is

    begun = params("begun", "0.125", "0")
    for name, layer in params("begun whole", "1", "0").items():  # a stage of these layers alone
        np.testing.assert_array_equal(layer["kernel"], begun[name]["kernel"])
    whole, slow = params("whole", "1", "1"), params("slow", "0.125", "1")
    held = params("held", "0", "1")
    for name in LEARN[:5]:
        at = begun[name]["kernel"]
        np.testing.assert_array_equal(held[name]["kernel"], at)
        full = np.abs(whole[name]["kernel"] - at).max()
        assert full > 0
        np.testing.assert_allclose(np.abs(slow[name]["kernel"] - at).max(), 0.125 * full, rtol=1e-3)
    for name in LEARN[5:]:
        np.testing.assert_array_equal(slow[name]["kernel"], whole[name]["kernel"])
    assert "conv4_1" in changed(slow, begun)
