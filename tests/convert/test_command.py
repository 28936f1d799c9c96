"""`python -m weights_convert`: what it writes and says, and that bad input is one message."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from oeft_jax import golden, weights
from weights_convert.__main__ import main
from weights_convert.convert import convert, licence_of, open_tensors
from weights_convert.registry import REGISTRY

WIDTHS = (64, 128, 256, 512, 512)  # of the heads that go with VGG-16


@pytest.fixture
def heads(tmp_path):
    """A file of LPIPS heads in the published layout."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    state = {
        f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for k, width in enumerate(WIDTHS)
    }
    path = tmp_path / "vgg.pth"
    torch.save(state, path)
    return path


def test_converts_says_what_it_found_and_writes_a_header_that_tells_all(heads, tmp_path, capsys):
    out = tmp_path / "new" / "heads.safetensors"
    assert main(["lpips_vgg", str(heads), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    found = weights.load_weights(out)
    assert found.metadata["source_sha256"] in said
    assert f"{sum(WIDTHS):,} numbers" in said
    assert found.network == "lpips"
    assert found.metadata["source_file"] == "vgg.pth"
    assert found.metadata["converter"].startswith("weights_convert ")
    assert len(json.loads(found.metadata[golden.HEADER])) == golden.NUM_SUMS
    golden.check(found)
    with safe_open(out, framework="numpy") as file:
        assert all(file.get_tensor(name).dtype == np.float32 for name in file.keys())  # noqa: SIM118


def test_licence_is_that_of_the_published_file_with_the_same_hash(heads, tmp_path):
    out = tmp_path / "heads.safetensors"
    convert("lpips_vgg", heads, out)
    assert weights.load_weights(out).metadata["licence"].startswith("unknown; ")
    entry = REGISTRY["lpips_vgg"]
    assert licence_of(entry.sha256) == entry.licence
    assert licence_of(REGISTRY["squeezenet1_0"].sha256 + "0" * 56).startswith("BSD-3-Clause")
    convert("lpips_vgg", heads, out, metadata={"licence": "mine"})
    assert weights.load_weights(out).metadata["licence"] == "mine"


def test_same_file_gives_the_same_bytes(heads, tmp_path):
    for name in ("a", "b"):
        convert("lpips_vgg", heads, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_existing_file_is_replaced_only_when_asked(heads, tmp_path, capsys):
    out = tmp_path / "heads.safetensors"
    out.write_bytes(b"mine")
    words = ["lpips_vgg", str(heads), "--out", str(out)]
    assert main(words) == 2
    assert "accepted: a new name, or --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert main([*words, "--overwrite"]) == 0
    assert weights.load_weights(out).network == "lpips"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vgg19", "{heads}", "--out", "{tmp}/o.safetensors"], "looks like lpips_vgg"),
        (["vgg99", "{heads}", "--out", "{tmp}/o.safetensors"], "accepted: alexnet, "),
        (["vgg19", "{tmp}/none.pth", "--out", "{tmp}/o.safetensors"], "no such file"),
        (["vgg19", "{tmp}", "--out", "{tmp}/o.safetensors"], "no such file"),
        (["vgg19", "{heads}", "--out", "{tmp}/o.pth"], "ends in .safetensors"),
        (["vgg19", "{text}", "--out", "{tmp}/o.safetensors"], "not a PyTorch file"),
        (["fetch", "vgg99"], "vgg99"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    heads, tmp_path, monkeypatch, capsys, words, said
):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    places = {"heads": heads, "tmp": tmp_path, "text": text}
    before = sorted(tmp_path.iterdir())
    assert main([word.format(**places) for word in words]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert sorted(tmp_path.iterdir()) == before


def test_file_of_something_else_is_told_by_what_it_holds(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    torch.save({"one": torch.ones(1), "two": 2}, path)
    assert main(["pggan", str(path), "--out", str(tmp_path / "o.safetensors")]) == 2
    assert "holds one, two; accepted: " in capsys.readouterr().err


def test_values_that_are_not_finite_are_refused(heads, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    state = torch.load(heads, weights_only=True)
    state["lin2.model.1.weight"][0, 3] = float("inf")
    torch.save(state, heads)
    assert main(["lpips_vgg", str(heads), "--out", str(tmp_path / "o.safetensors")]) == 2
    assert "non-finite" in capsys.readouterr().err


def test_list_names_every_network_without_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path))
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "vgg19" in said
    assert "pggan_celebahq1024" in said


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_arrays_of_an_npz_file_are_read_one_by_one(tmp_path):
    path = npz(tmp_path / "a.npz", a=np.arange(6.0).reshape(2, 3), b=np.float32(3))
    with open_tensors(path) as tree:
        assert {name: member.shape for name, member in tree.items()} == {"a": (2, 3), "b": ()}
        np.testing.assert_array_equal(tree["a"].read(), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("kind", ["objects", "zeros", "cut", "text", "lie"])
def test_npz_files_that_could_do_harm_are_refused(tmp_path, capsys, kind):
    path = tmp_path / "a.npz"
    if kind == "objects":
        npz(path, a=np.array([{}], dtype=object))
    elif kind == "zeros":
        np.savez_compressed(path, a=np.zeros(10_000_000))
    elif kind == "lie":
        data = npz(path, a=np.zeros(64)).read_bytes()
        path.write_bytes(data.replace(b"(64,)", b"(99,)"))
    else:
        data = npz(path, a=np.zeros(64)).read_bytes()
        path.write_bytes(data[:-40] if kind == "cut" else b"text")
    assert main(["squeezenet1_0", str(path), "--out", str(tmp_path / "o.safetensors")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"weights_convert: {path}: ")
    assert len(message.strip().splitlines()) == 1
