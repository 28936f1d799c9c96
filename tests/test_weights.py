"""Weight files: what is saved comes back, same bytes, and one sentence for each kind of bad file."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from oeft_jax import weights
from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone

CONFIG = {"depths": [1, 1], "widths": [4, 4]}
HEADER = {"network": "vgg", "config": json.dumps(CONFIG)}


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv1_1": {"kernel": rng.normal(size=(3, 3, 3, 4)), "bias": rng.normal(size=4)},
        "deep": {"er": {"scale": np.float32(1.5)}},
    }


def save(path, params=None, **options):
    options = {"network": "vgg", "config": CONFIG} | options
    weights.save_weights(path, make_params() if params is None else params, **options)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_nested_weights_come_back_as_float32_rounded_to_the_files_type(tmp_path, dtype):
    params = make_params()
    loaded = weights.load_weights(save(tmp_path / "a.safetensors", dtype=dtype)).params
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert ours.dtype == np.float32
        expected = np.asarray(theirs).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(ours, expected)
        assert ours.shape == np.shape(theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_transposed_and_strided_kernels_come_back_in_their_places(tmp_path, dtype):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    params = {"t": base.transpose(2, 0, 1), "s": base[:, ::2, ::-1], "f": np.asfortranarray(base)}
    loaded = weights.load_weights(save(tmp_path / "a.safetensors", params, dtype=dtype)).params
    for name, leaf in params.items():
        np.testing.assert_array_equal(loaded[name], leaf)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_reading_compiles_nothing(tmp_path, dtype, caplog):
    """A program for each shape of a network would be a second of every run."""
    shape = (3, 1, 5, 2, 7)  # of no other test: what is compiled once is kept
    file = save(tmp_path / "a.safetensors", {"w": np.ones(shape)}, dtype=dtype)
    with jax.log_compiles():
        loaded = weights.load_weights(file).params
        assert "Finished XLA compilation" not in caplog.text
        jax.jit(lambda x: x + 1)(loaded["w"])
        assert "Finished XLA compilation" in caplog.text  # it would be seen


def test_half_precision_file_is_half_as_large(tmp_path):
    params = {"w": np.ones((64, 64))}
    half = save(tmp_path / "half.safetensors", params).stat().st_size
    full = save(tmp_path / "full.safetensors", params, dtype="float32").stat().st_size
    assert full - half == 64 * 64 * 2


def test_same_weights_give_the_same_bytes_in_whatever_order(tmp_path):
    params = make_params()
    turned = {name: dict(reversed(part.items())) for name, part in reversed(params.items())}
    first = save(tmp_path / "a.safetensors", params, metadata={"x": "1", "y": "2"})
    second = save(
        tmp_path / "b.safetensors",
        turned,
        config=dict(reversed(CONFIG.items())),
        metadata={"y": "2", "x": "1"},
    )
    assert first.read_bytes() == second.read_bytes()
    other = save(tmp_path / "c.safetensors", make_params(1), metadata={"x": "1", "y": "2"})
    assert first.read_bytes() != other.read_bytes()


def test_network_config_metadata_checksum_and_origin_are_reported(tmp_path):
    path = save(tmp_path / "a.safetensors", metadata={"licence": "MIT", "network": "ignored"})
    loaded = weights.load_weights(path)
    assert loaded.network == "vgg"
    assert loaded.config == CONFIG
    assert loaded.metadata == {"licence": "MIT"}
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.origin == str(path)
    assert weights.load_weights(str(path), origin="bundled:features").origin == "bundled:features"


def test_nothing_partial_stays_after_saving_and_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert weights.load_weights(path).network == "vgg"


def test_failed_save_leaves_the_old_file_and_nothing_partial(tmp_path, monkeypatch):
    path = save(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full_disk(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(path, make_params(1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: no such weight file; accepted: "):
        weights.load_weights(tmp_path / "none.safetensors")


def write_cut(path):
    save(path)
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_bytes(b"PK\x03\x04 not a tensor"), id="other format"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 64), id="huge header"),
        pytest.param(write_cut, id="truncated"),
    ],
)
def test_unreadable_file_is_refused(tmp_path, write):
    path = tmp_path / "a.safetensors"
    write(path)
    with pytest.raises(InputError, match=r"a\.safetensors: not a readable safetensors file .*acc"):
        weights.load_weights(path)


@pytest.mark.parametrize(
    "header",
    [None, {"network": "vgg"}, {"config": "{}"}, {"network": "vgg", "config": "{"}],
    ids=["none", "no config", "no network", "broken config"],
)
def test_file_without_this_projects_header_is_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    save_file({"w": np.ones(2, np.float32)}, path, metadata=header)
    with pytest.raises(InputError, match=r"has no description of its network; accepted: "):
        weights.load_weights(path)


def test_description_that_is_not_a_table_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": np.ones(2, np.float32)}, path, metadata={**HEADER, "config": "[1]"})
    with pytest.raises(InputError, match="description of its network is not a table"):
        weights.load_weights(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_by_name(tmp_path, bad):
    params = {"good": np.ones(2), "part": {"bad": np.array([1.0, bad])}}
    path = save(tmp_path / "a.safetensors", params)
    with pytest.raises(InputError, match="holds non-finite values in 'part/bad'; get the file"):
        weights.load_weights(path)


@pytest.mark.parametrize(
    ("network", "role", "accepted"),
    [("vgg", "generator", "pggan, stylegan"), ("stylegan", "features", "vgg, resnet")],
)
def test_network_of_the_wrong_role_is_refused_with_those_accepted(
    tmp_path, network, role, accepted
):
    path = save(tmp_path / "a.safetensors", network=network, config={})
    match = f"holds a '{network}' network, which cannot serve as {role}; accepted: {accepted}"
    with pytest.raises(InputError, match=match):
        weights.find_weights(str(path), role)


def test_name_is_looked_for_in_the_folder_of_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path))
    assert weights.cache_folder() == tmp_path
    path = save(tmp_path / "vgg19.safetensors")
    found = weights.find_weights("vgg19", "features")
    assert found.origin == str(path)
    monkeypatch.delenv("OEFT_JAX_CACHE")
    assert weights.cache_folder().name == "weights"
    assert "oeft_jax" in weights.cache_folder().parts


def test_unknown_name_is_refused_with_the_folder_and_what_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"weights 'vgg21' are not in .*accepted: 'bundled', "
    ) as e:
        weights.find_weights("vgg21", "features")
    assert str(tmp_path) in str(e.value)


def test_bundled_names_a_file_among_the_packages_assets(tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    save(tmp_path / "assets" / "features.safetensors")
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    found = weights.find_weights("bundled", "features")
    assert found.origin == "bundled:features"
    assert found.network == "vgg"


def test_misfits_are_listed_in_one_message():
    params = {
        "same": {"kernel": np.ones((2, 2))},
        "wrong": {"kernel": np.ones((3, 1))},
        "extra": {"bias": np.ones(2)},
    }
    expected = {
        "same": {"kernel": np.ones((2, 2))},
        "wrong": {"kernel": np.ones((1, 3))},
        "absent": {"bias": np.ones(2), "kernel": np.ones(2)},
    }
    with pytest.raises(InputError) as caught:
        weights.check_fits(params, expected, "some.safetensors")
    assert str(caught.value) == (
        "some.safetensors: does not fit its network: missing absent/bias; missing absent/kernel; "
        "unused extra/bias; wrong/kernel is (3, 1), the network has (1, 3)."
    )


def test_saved_network_fits_its_own_description(tmp_path):
    network, taps = backbone("vgg", CONFIG), ("relu2_1",)
    shapes = jax.eval_shape(lambda key: network.init(key, taps), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    loaded = weights.load_weights(save(tmp_path / "a.safetensors", params))
    rebuilt = backbone(loaded.network, loaded.config)
    expected = jax.eval_shape(lambda key: rebuilt.init(key, taps), jax.random.key(0))
    weights.check_fits(loaded.params, expected, loaded.origin)
    assert len(jax.tree.leaves(expected)) == 4
