"""The command: files it writes, input it refuses, and runs that are interrupted."""

import contextlib
import csv
import dataclasses
import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_pipeline import save_tiny_weights

import oeft_jax
from oeft_jax import pipeline
from oeft_jax.config import Config, flag_of, sections
from oeft_jax.flags import parser
from oeft_jax.image import read_image, to_uint8
from oeft_jax.patches import vote

command = importlib.import_module("oeft_jax.translate")

FILES = {"translation.png", "warped.png", "overview.png", "losses.csv", "losses.png"}
FILES |= {"manifest.json", "confidence.png"}
ROOT = Path(oeft_jax.__file__).parents[1]
SMALL = """
  --image-size 32 --grid 8 --steps 3 --no-augment --num-queries 16
  --taps relu2_1,relu3_1 --gram-taps relu1_1 --contextual-taps relu2_1
  --inversion-composing-layers 4 --inversion-num-codes 2,3 --inversion-steps 4
  --refine-give-up 1
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with tiny weights, two photos and things that are neither."""
    folder = save_tiny_weights(tmp_path_factory.mktemp("given"))
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(2)
    ]
    pictures[0].save(folder / "a.png")
    pictures[1].save(folder / "b.png")
    pictures[0].save(folder / "moving.gif", save_all=True, append_images=pictures[1:])
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "text.safetensors").write_text("no weights here")
    return folder


@pytest.fixture(scope="module")
def words_for(given):
    """The words of a small command; a later flag wins over an earlier one."""

    def words(out, *more):
        files = {"--source": "a.png", "--target": "b.png", "--features": "features.safetensors"}
        files["--inversion-generator"] = "generator.safetensors"
        pairs = [word for flag, name in files.items() for word in (flag, str(given / name))]
        return [*pairs, *SMALL.split(), "--out", str(out), *map(str, more)]

    return words


@pytest.fixture(scope="module")
def finished(words_for, tmp_path_factory):
    """The folder of an unbroken run."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert command.main(words_for(out)) == 0
    return out


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        path: None for path in folder.rglob("*") if path.is_dir()
    }


def interrupt_after(monkeypatch, steps):
    """Makes the next run save after every step and stop after so many."""

    @contextlib.contextmanager
    def stopping():
        told = []

        def on_progress(progress):
            told.append(progress)
            if len(told) == steps:
                raise KeyboardInterrupt

        yield on_progress

    monkeypatch.setattr(pipeline, "SAVE_EVERY", 1)
    monkeypatch.setattr(command, "show_progress", stopping)


@pytest.fixture
def interrupted(words_for, tmp_path):
    """(out, what is kept beside it) of a run stopped in its second step."""
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 2)
        assert command.main(words_for(out)) == 1
    return out, out.with_name("out.unfinished")


# What is written


def test_a_run_writes_its_files_and_nothing_else(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert [path.name for path in finished.parent.iterdir()] == ["out"]


def test_pictures_and_table(finished):
    sizes = {}
    for path in finished.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            sizes[path.stem] = image.size
    assert sizes["translation"] == sizes["warped"] == sizes["confidence"] == (48, 40)
    assert min(sizes["overview"]) > 192
    with (finished / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["contextual", "contrastive", "local_structure", "perceptual", "structure"]
    assert list(rows[0]) == ["step", "loss", *names]
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def test_manifest_reproduces_the_run(finished, given, words_for):
    manifest = json.loads((finished / "manifest.json").read_text("utf-8"))
    newest = max(finished.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "manifest.json"

    def digest(name):
        return hashlib.sha256((given / name).read_bytes()).hexdigest()

    assert manifest["inputs"]["source"]["sha256"] == digest("a.png")
    assert manifest["inputs"]["target"]["sha256"] == digest("b.png")
    hashes = [entry["sha256"] for entry in manifest["weights"]]
    assert hashes == [digest("features.safetensors"), digest("generator.safetensors")]
    assert set(manifest["config"]) == {one.name for one in dataclasses.fields(Config)}
    assert manifest["config"]["correspondence"]["steps"] == 3
    assert manifest["config"]["inversion"]["num_codes"] == [2, 3]
    assert {"oeft_jax", "python", "jax", "numpy"} <= set(manifest["versions"])
    hypotheses = manifest["result"]["hypotheses"]
    assert [one["num_codes"] for one in hypotheses] == [2, 3]
    assert all(isinstance(one["score"], float) for one in hypotheses)
    assert sum(one["chosen"] for one in hypotheses) == 1
    assert set(manifest["files"]) == FILES
    assert manifest["files"][-1] == "manifest.json"
    assert manifest["command"].endswith(" ".join(words_for(finished)[-4:]))


def test_raw_warp_no_steps_and_the_first_line(words_for, given, tmp_path, capsys):
    out = tmp_path / "deep" / "out"  # parents are made
    more = ["--raw-warp", "--save-field", "--steps", 0, "--refine", "never"]
    assert command.main(words_for(out, *more)) == 0
    assert {path.name for path in out.iterdir()} == FILES | {"warped_raw.png", "field.npz"}
    assert (out / "losses.csv").read_text() == "step,loss\n"
    with Image.open(out / "losses.png") as image:
        assert image.size[0] > 500
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("device cpu")
    for part in (str(given / "features.safetensors"), "warped_raw.png", str(out)):
        assert part in lines[0]
    assert "generator.safetensors" not in lines[0]
    assert "translation.png" in lines[-1]


def test_saved_field_makes_the_picture_again(words_for, given, tmp_path):
    out = tmp_path / "out"
    more = ["--save-field", "--steps", 0, "--refine", "never", "--structure", 0]
    assert command.main(words_for(out, *more)) == 0
    with np.load(out / "field.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    assert arrays["target"].dtype == arrays["confidence"].dtype == np.float32
    assert arrays["target"].shape == (10, 12, 2)
    assert arrays["confidence"].shape == (10, 12)
    assert len(arrays["source_y"]) == 10
    assert list(arrays["source_size"]) == [40, 48]
    target = read_image(given / "b.png")
    assert list(arrays["target_size"]) == list(target.shape[:2])
    made = vote(target, arrays["target"].astype(np.int32), arrays["source_size"])
    with Image.open(out / "translation.png") as image:
        np.testing.assert_array_equal(np.asarray(image), to_uint8(made))


def test_overwrite_replaces_our_files_only(words_for, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "translation.png").write_text("old")
    words = words_for(out, "--overwrite", "--steps", 0, "--refine", "never")
    assert command.main(words) == 0
    assert {path.name for path in out.iterdir()} == FILES | {"notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"
    with Image.open(out / "translation.png") as image:
        assert image.size == (48, 40)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# What is refused


BAD = {
    "missing source": ["--source", "{given}/nowhere.png"],
    "source is a folder": ["--source", "{given}"],
    "corrupt picture": ["--target", "{given}/cut.png"],
    "not a picture": ["--target", "{given}/text.safetensors"],
    "animated gif": ["--source", "{given}/moving.gif"],
    "one pixel": ["--source", "{given}/pixel.png"],
    "unknown preset": ["--preset", "nice"],
    "unknown flag": ["--speed", "9"],
    "shortened flag": ["--overw"],
    "no number": ["--steps", "many"],
    "no number in a list": ["--inversion-num-codes", "2,x"],
    "empty list": ["--inversion-num-codes", ""],
    "grid does not divide": ["--grid", "7"],
    "layer too large": ["--inversion-composing-layers", "7"],
    "layer beyond all": ["--inversion-composing-layers", "40"],
    "negative steps": ["--steps", "-1"],
    "nan": ["--alpha", "nan"],
    "unknown choice": ["--refine", "maybe"],
    "unknown tap": ["--taps", "relu9_9"],
    "missing weights": ["--features", "{given}/nowhere.safetensors"],
    "no weights file": ["--features", "{given}/text.safetensors"],
    "generator as features": ["--features", "{given}/generator.safetensors"],
    "features as generator": ["--inversion-generator", "{given}/features.safetensors"],
    "no statistics": ["--selection-scorer", "point"],
    "size that is no number": ["--size", "large"],
    "size too large": ["--size", "9000"],
    "structure out of range": ["--structure", "1.5"],
    "both": ["--resume", "--overwrite"],
    "out below a file": ["--out", "{given}/a.png/out"],
    "out is a file": ["--out", "{given}/a.png"],
    "out is not empty": ["--out", "{given}"],
    "out is the root": ["--out", "/"],
}


def refused(words, capsys, *folders):
    """Runs a command that must end with code 2 and one line, and leave every folder as it was."""
    before = [contents(folder) for folder in folders]
    capsys.readouterr()
    assert command.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("oeft_jax: ")
    assert "Traceback" not in lines[0]
    assert [contents(folder) for folder in folders] == before
    return lines[0]


@pytest.mark.parametrize("more", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_leaves_nothing(words_for, given, tmp_path, capsys, more):
    words = words_for(tmp_path / "out", *(word.format(given=given) for word in more))
    refused(words, capsys, tmp_path, given)
    assert list(tmp_path.iterdir()) == []


def test_nothing_given_is_one_line(capsys):
    line = refused([], capsys)
    assert all(flag in line for flag in ("--source", "--target", "--out"))


@pytest.mark.parametrize("more", [[], ["--resume", "--steps", "4"], ["--overwrite", "--grid", "7"]])
def test_an_interrupted_run_is_not_lost_to_a_bad_command(words_for, interrupted, capsys, more):
    out, kept = interrupted
    assert kept.is_dir()
    assert not out.exists()
    line = refused(words_for(out, *more), capsys, out.parent)
    if "--grid" not in more:
        assert "--overwrite" in line


def test_overwrite_with_a_bad_photo_keeps_the_interrupted_run(words_for, interrupted, capsys):
    out, _ = interrupted
    more = ["--overwrite", "--source", "nowhere.png"]
    refused(words_for(out, *more), capsys, out.parent)


# Interruptions


def test_resumed_run_writes_the_same(words_for, finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert command.main(words_for(out)) == 1
        assert capsys.readouterr().err == "oeft_jax: interrupted. Continue with --resume.\n"
        assert not out.exists()
        interrupt_after(patch, 3)  # counted from the resumed step, so in the second stage
        assert command.main(words_for(out, "--resume")) == 1
    assert command.main(words_for(out, "--resume")) == 0
    assert "correspondence 1/3" not in capsys.readouterr().err  # not from the start
    for name in ("translation.png", "warped.png", "losses.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_that_breaks_writes_no_folder_and_keeps_its_state(words_for, tmp_path, monkeypatch):
    def breaks(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(pipeline, "translate", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        command.main(words_for(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]


def test_a_run_that_goes_non_finite_says_where(words_for, tmp_path, monkeypatch, capsys):
    broken = {"broken": (1.0, lambda x: jnp.float32(jnp.nan))}
    monkeypatch.setattr(pipeline.loss_terms, "default_losses", lambda config: broken)
    out = tmp_path / "out"
    assert command.main(words_for(out, "--refine", "never")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "step 1: loss term 'broken' is not finite" in lines[0]
    assert lines[0].endswith("Start anew with --overwrite.")
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]


# Flags and names


def test_every_option_has_a_flag():
    shown = {word.rstrip(",") for word in parser().format_help().split()}
    flags = [
        f"--{flag_of(section, item.name, item.metadata)}"
        for section, values in sections(Config()).items()
        for item in dataclasses.fields(values)
        if "help" in item.metadata
    ]
    assert len(flags) == len(set(flags)) > 40
    assert set(flags) <= shown


def test_help_of_the_module():
    words = [sys.executable, "-m", "oeft_jax.translate", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--source A --target B --out DIR" in done.stdout
    assert done.stderr == ""


def test_the_function_survives_the_import_of_the_command(given):
    stage = dataclasses.replace(
        Config().correspondence, features=str(given / "features.safetensors")
    )
    refine = dataclasses.replace(Config().refine, mode="never")
    config = dataclasses.replace(Config(), correspondence=stage, refine=refine)
    assert oeft_jax.translate is command
    with pytest.raises(oeft_jax.InputError, match="source has dtype"):
        oeft_jax.translate(np.zeros((40, 40, 3), int), np.zeros((40, 40, 3)), config)
