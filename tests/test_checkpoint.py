"""State on disk: what is saved comes back, the newest alone is kept, misfits are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oeft_jax import checkpoint
from oeft_jax._checks import InputError

PARAMS = {"conv": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.ones(3)}}


def make_state(optimizer, *, steps=0):
    """(params, optimiser state) after some updates, as jax arrays."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.parametrize(
    "optimizer", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)], ids=["adam", "momentum"]
)
def test_optimiser_state_comes_back_bitwise_and_continues_as_if_unbroken(tmp_path, optimizer):
    saved = make_state(optimizer, steps=3)
    checkpoint.save(tmp_path / "run", 3, saved)
    restored = checkpoint.restore(tmp_path / "run", make_state(optimizer))
    assert_same(restored, saved)
    assert jnp.abs(restored[0]["conv"]["kernel"] - PARAMS["conv"]["kernel"]).max() > 1e-3
    gradient = jax.tree.map(jnp.cos, restored[0])
    assert_same(
        optimizer.update(gradient, restored[1], restored[0]),
        optimizer.update(gradient, saved[1], saved[0]),
    )


def test_jax_arrays_come_back_as_such_and_other_leaves_as_numpy(tmp_path):
    tree = {"jax": jnp.int32(4), "numpy": np.full((2,), np.nan), "number": 3, "real": 0.5}
    checkpoint.save(tmp_path / "run", 1, tree)
    restored = checkpoint.restore(tmp_path / "run", tree)
    assert isinstance(restored["jax"], jax.Array)
    assert restored["jax"].dtype == jnp.int32
    assert restored["numpy"].dtype == np.float64
    assert np.isnan(restored["numpy"]).all()
    assert int(restored["number"]) == 3
    assert float(restored["real"]) == 0.5


def test_latest_is_the_newest_step_and_older_ones_are_removed(tmp_path):
    folder = tmp_path / "run"
    assert checkpoint.latest(folder) is None
    for step in (2, 5):
        checkpoint.save(folder, step, {"x": np.full(2, step)})
    assert checkpoint.latest(folder) == 5
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["5"]
    np.testing.assert_array_equal(checkpoint.restore(folder, {"x": np.zeros(2, int)})["x"], 5)


def test_empty_folder_has_nothing_to_restore(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    with pytest.raises(InputError, match="holds no saved state; run without --resume"):
        checkpoint.restore(tmp_path, {"x": np.zeros(2)})


@pytest.mark.parametrize(
    "like",
    [
        pytest.param({"x": np.zeros((2, 3))}, id="a leaf less"),
        pytest.param({"x": np.zeros((2, 3)), "y": np.zeros(2), "z": 1.0}, id="a leaf more"),
        pytest.param({"x": np.zeros((2, 3)), "z": np.zeros(2)}, id="another name"),
        pytest.param({"x": np.zeros((2, 4)), "y": np.zeros(2)}, id="another shape"),
        pytest.param({"x": np.zeros((3, 2)), "y": np.zeros(2)}, id="transposed"),
        pytest.param([np.zeros((2, 3)), np.zeros(2)], id="a list"),
    ],
)
def test_state_that_does_not_fit_is_refused(tmp_path, like):
    checkpoint.save(tmp_path / "run", 1, {"x": np.ones((2, 3)), "y": np.ones(2)})
    with pytest.raises(InputError, match="saved state cannot be used; run with --overwrite"):
        checkpoint.restore(tmp_path / "run", like)


def test_state_of_another_optimiser_is_refused(tmp_path):
    checkpoint.save(tmp_path / "run", 1, make_state(optax.adam(0.1)))
    with pytest.raises(InputError, match="cannot be used"):
        checkpoint.restore(tmp_path / "run", make_state(optax.sgd(0.1)))


def test_damaged_state_is_refused(tmp_path):
    tree = {"x": np.ones((2, 3))}
    checkpoint.save(tmp_path / "run", 1, tree)
    for path in (tmp_path / "run" / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(InputError, match="cannot be used; run with --overwrite"):
        checkpoint.restore(tmp_path / "run", tree)


def test_store_keeps_named_states_apart_and_replaces_them(tmp_path):
    store = checkpoint.Store(tmp_path)
    like = {"x": np.zeros(2)}
    assert store.load("one", like) is like
    store.save("one", 1, {"x": np.full(2, 1.0)})
    store.save("two", 1, {"x": np.full(2, 2.0)})
    store.save("one", 4, {"x": np.full(2, 4.0)})
    np.testing.assert_array_equal(store.load("one", like)["x"], 4.0)
    np.testing.assert_array_equal(store.load("two", like)["x"], 2.0)


def test_store_without_a_folder_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, like = checkpoint.Store(None), {"x": np.zeros(2)}
    store.save("one", 1, {"x": np.ones(2)})
    assert store.load("one", like) is like
    assert list(tmp_path.iterdir()) == []
