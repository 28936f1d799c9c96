"""Lists of pairs: how they are read, what they leave behind, and what a bad pair does to others."""

import contextlib
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_networks import fill

from oeft_jax import pairs as many
from oeft_jax import pipeline
from oeft_jax._checks import InputError
from oeft_jax.config import Config, CorrespondenceConfig, InversionConfig, SelectionConfig
from oeft_jax.pair_list import PairPaths, match_folders, read_list

command = importlib.import_module("oeft_jax.translate")

FILES = {"translation.png", "warped.png", "overview.png", "losses.csv", "losses.png"}
FILES |= {"manifest.json", "confidence.png"}
SMALL = """
  --image-size 32 --grid 8 --steps 3 --no-augment --num-queries 16 --refine never
  --taps relu1_1,relu2_1 --gram-taps relu1_1 --contextual-taps relu2_1
  --inversion-perceptual-tap relu2_1 --selection-tap relu2_1
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with tiny weights, photos a to d, one that is cut short, and a white one."""
    folder = fill(tmp_path_factory.mktemp("given"))
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    Image.new("RGB", (40, 40), (255, 255, 255)).save(folder / "white.png")
    return folder


def listed(folder, *rows):
    path = folder / "list.csv"
    path.write_text("\n".join(["source,target,name", *rows]), "utf-8")
    return path


@pytest.fixture
def run(given):
    """Runs the command with small settings; returns its exit code."""

    def run(out, *more):
        words = ["--features", given / "features.safetensors", *SMALL.split(), "--out", out, *more]
        return command.main([str(word) for word in words])

    return run


@pytest.fixture
def at_given(given, tmp_path):
    """A list beside which the photos are found: absolute names."""

    def make(*rows):
        absolute = [
            ",".join([*(str(given / f"{part}.png") for part in row.split()[:2]), row.split()[2]])
            for row in rows
        ]
        return listed(tmp_path, *absolute)

    return make


def summary_of(out):
    return json.loads((out / "pairs.json").read_text("utf-8"))


def statuses(out):
    return {row["name"]: row["status"] for row in summary_of(out)["pairs"]}


# Lists


def test_a_list_names_photos_relative_to_itself(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "pairs.csv"
    path.write_bytes('\ufeffsource,target\r\na.png,/x/b.jpg\r\n"c,d.png", e.png\r\n'.encode())
    assert read_list(path) == [
        ("a_b", tmp_path / "in" / "a.png", tmp_path.joinpath("/x/b.jpg")),
        ("c,d_e", tmp_path / "in" / "c,d.png", tmp_path / "in" / "e.png"),
    ]


def test_names_of_a_list(tmp_path):
    pairs = read_list(listed(tmp_path, "a.png,b.png,first", "a.png,b.png,", "b.png,a.png,zürich 2"))
    assert [pair.name for pair in pairs] == ["first", "a_b", "zürich 2"]


BAD_LISTS = {
    "no header": ("a.png,b.png\n", "source,target"),
    "another header": ("source,target,name,seed\na,b,c,1\n", "accepted: 'source,target'"),
    "no pairs": ("source,target\n", "no pair"),
    "nothing": ("", "first line"),
    "no target": ("source,target\na.png,b.png\na.png\n", "line 3"),
    "too much": ("source,target\na.png,b.png,c.png\n", "line 2"),
    "one name twice": ("source,target,name\na,b,Same\nc,d,same\n", "more than once"),
    "same stems": ("source,target\na.png,b.png\na.jpg,b.png\n", "a_b is there more than once"),
    "leaves the folder": ("source,target,name\na,b,../c\n", "cannot be a folder's"),
    "hidden": ("source,target,name\na,b,.c\n", "cannot be a folder's"),
    "looks unfinished": ("source,target,name\na,b,c.unfinished\n", "cannot be a folder's"),
    "the summary": ("source,target,name\na,b,pairs.json\n", "summary's name"),
    "broken quotes": ('source,target\n"a.png,b.png\n', "no CSV file"),
    "not text": (b"\xff\xfe\x00\x01", "no CSV file"),
}


@pytest.mark.parametrize(("text", "message"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_list(path)
    assert "list.csv" in str(caught.value)


def test_a_list_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_list(path)


@pytest.fixture
def folders(tmp_path):
    def make(sources, targets):
        for side, names in (("source", sources), ("target", targets)):
            (tmp_path / side).mkdir()
            for name in names.split():
                (tmp_path / side / name).touch()
        return tmp_path / "source", tmp_path / "target"

    return make


def test_folders_are_matched_by_name(folders):
    source, target = folders("b.png a.JPG .hidden.png notes.txt", "a.png b.webp")
    assert match_folders(source, target) == [
        ("a", source / "a.JPG", target / "a.png"),
        ("b", source / "b.png", target / "b.webp"),
    ]


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ("a.png b.png c.png", "a.png", "--source: b.png, c.png without a photo of that name"),
        ("a.png", "a.png x.png", "--target: x.png without"),
        ("a.png a.jpg", "a.png", "--source .*a.jpg and a.png have one name"),
        ("notes.txt", "more.txt", "holds no pair"),
        (" ".join(f"{n}.png" for n in range(9)), "0.png", "and 3 more without"),
    ],
)
def test_folders_that_do_not_match(folders, sources, targets, message):
    with pytest.raises(InputError, match=message):
        match_folders(*folders(sources, targets))


# What a list leaves behind


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    """(OUT, stderr) of a list with a photo that cannot be read and one that is not there."""
    out = tmp_path_factory.mktemp("finished") / "out"
    rows = ["a.png,b.png,one", "cut.png,b.png,two", "c.png,d.png,three", "none.png,a.png,four"]
    words = ["--features", str(given / "features.safetensors"), *SMALL.split()]
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many, "_say", lines.append)
        code = command.main([*words, "--pairs", str(listed(given, *rows)), "--out", str(out)])
    return out, code, lines


def test_bad_pairs_end_nothing_else(finished):
    out, code, _ = finished
    assert code == 1
    expected = {"one": "done", "two": "failed", "three": "done", "four": "failed"}
    assert statuses(out) == expected
    assert {path.name for path in out.iterdir()} == {"one", "three", "pairs.json"}
    summary = summary_of(out)
    assert (summary["done"], summary["failed"], summary["skipped"]) == (2, 2, 0)
    reasons = {row["name"]: row["reason"] for row in summary["pairs"]}
    assert "cut.png" in reasons["two"]
    assert "none.png" in reasons["four"]
    assert reasons["one"] == ""
    assert all(row["seconds"] >= 0 for row in summary["pairs"])


def test_a_pair_of_a_list_is_what_a_run_of_its_own_writes(finished, run, given, tmp_path):
    out, _, _ = finished
    words = ["--source", given / "c.png", "--target", given / "d.png"]
    assert run(tmp_path / "three", *words) == 0
    for name in FILES - {"manifest.json"}:
        alone = (tmp_path / "three" / name).read_bytes()
        assert (out / "three" / name).read_bytes() == alone, name
    ours, theirs = (
        json.loads((folder / "three" / "manifest.json").read_text("utf-8"))
        for folder in (out, tmp_path)
    )
    newest = max((out / "three").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "manifest.json"
    assert "--pairs" in ours["command"]
    for aside in ("command", "seconds"):
        del ours[aside], theirs[aside]
    assert ours == theirs


def test_progress_names_the_pair_the_count_and_the_time_left(finished):
    _, _, lines = finished
    assert lines[0] == "pair 1 of 4: one"
    assert lines[1].startswith("one done in ")
    assert lines[2].startswith("two failed: ")
    assert "cut.png" in lines[2]
    assert lines[3].startswith("pair 3 of 4: three; about ")
    assert lines[3].endswith(" s left for the list")


def test_two_folders_are_a_list(run, given, tmp_path):
    for side, photo in (("from", "a.png"), ("to", "b.png")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "one.png").write_bytes((given / photo).read_bytes())
    words = ["--source", tmp_path / "from", "--target", tmp_path / "to", "--steps", 0]
    assert run(tmp_path / "out", *words) == 0
    assert {path.name for path in (tmp_path / "out" / "one").iterdir()} == FILES
    assert statuses(tmp_path / "out") == {"one": "done"}


def test_a_pair_that_goes_non_finite_is_told_and_its_state_kept(
    run, at_given, tmp_path, monkeypatch
):
    spoiled = {
        "white": (1.0, lambda x: jnp.where(jnp.mean(x.source) > 0.9, jnp.nan, x.warped.mean()))
    }
    monkeypatch.setattr(pipeline.loss_terms, "default_losses", lambda config: spoiled)
    path = at_given("white a one", "b c two")
    assert run(tmp_path / "out", "--pairs", path) == 1
    assert statuses(tmp_path / "out") == {"one": "failed", "two": "done"}
    assert "loss term 'white' is not finite" in summary_of(tmp_path / "out")["pairs"][0]["reason"]
    folders = {path.name for path in (tmp_path / "out").iterdir()}
    assert folders == {"one.unfinished", "two", "pairs.json"}


# Interruptions


def stop_in(monkeypatch, place):
    """Makes the pair at `place`, from 0, save each step and stop after its second."""
    begun = []

    @contextlib.contextmanager
    def stopping():
        begun.append(None)

        def on_progress(progress):
            if len(begun) == place + 1 and progress.step == 2:
                raise KeyboardInterrupt

        yield on_progress

    monkeypatch.setattr(pipeline, "SAVE_EVERY", 1)
    monkeypatch.setattr(many, "show_progress", stopping)


def test_resume_skips_what_is_done_and_continues_what_is_not(
    run, at_given, finished, tmp_path, monkeypatch, capsys
):
    path, out = at_given("a b one", "c d three", "b a four"), tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_in(patch, 1)
        assert run(out, "--pairs", path) == 1
    assert statuses(out) == {"one": "done"}
    assert {path.name for path in out.iterdir()} == {"one", "three.unfinished", "pairs.json"}
    first = (out / "one" / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run(out, "--pairs", path) == 2  # not empty
    assert "--overwrite" in capsys.readouterr().err
    assert run(out, "--pairs", path, "--resume") == 0
    told = capsys.readouterr().err
    assert "one skipped" in told
    three = told[told.index("three\n") :].splitlines()
    assert three[1].startswith("correspondence 3/3")  # it went on after its second step
    assert statuses(out) == {"one": "skipped", "three": "done", "four": "done"}
    assert (out / "one" / "manifest.json").stat().st_mtime_ns == first
    unbroken = finished[0]
    for name in ("translation.png", "losses.csv"):
        assert (out / "three" / name).read_bytes() == (unbroken / "three" / name).read_bytes()


def test_resume_with_other_settings_keeps_what_is_there(run, at_given, tmp_path):
    path, out = at_given("a b one"), tmp_path / "out"
    words = ["--pairs", path, "--steps", 0]
    assert run(out, *words) == 0
    before = {path: path.read_bytes() for path in (out / "one").iterdir()}
    assert run(out, *words, "--resume", "--seed", 1) == 1
    assert "was made with other settings" in summary_of(out)["pairs"][0]["reason"]
    assert {path: path.read_bytes() for path in (out / "one").iterdir()} == before
    assert run(out, *words, "--overwrite", "--seed", 1) == 0
    manifest = json.loads((out / "one" / "manifest.json").read_text("utf-8"))
    assert manifest["config"]["seed"] == 1


# What is refused

REFUSED = {
    "pairs and photos": "--pairs {list} --source {given}/a.png",
    "folder and photo": "--source {given} --target {given}/a.png",
    "missing list": "--pairs {given}/none.csv",
    "no target": "--source {given}/a.png",
    "both modes": "--pairs {list} --resume --overwrite",
    "out is a file": "--pairs {list} --out {given}/a.png",
    "out is not empty": "--pairs {list} --out {given}",
    "out below a file": "--pairs {list} --out {given}/a.png/out",
    "missing weights": "--pairs {list} --features {given}/none.safetensors",
    "one pair for many": "--source {given}/a.png --target {given}/b.png --distributed",
    "processes alone": "--pairs {list} --num-processes 2",
    "no process id": "--pairs {list} --distributed --coordinator a:1 --num-processes 2",
    "no port": "--pairs {list} --distributed --coordinator a --num-processes 2 --process-id 0",
    "id too large": "--pairs {list} --distributed --coordinator a:1 --num-processes 2 "
    "--process-id 2",
}


@pytest.mark.parametrize("more", REFUSED.values(), ids=REFUSED)
def test_bad_flags_are_one_line_and_leave_nothing(run, given, at_given, tmp_path, capsys, more):
    path = at_given("a b one")
    before = sorted([*given.rglob("*"), *tmp_path.rglob("*")])
    words = [word.format(given=given, list=path) for word in more.split()]
    assert run(tmp_path / "out", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("oeft_jax: ")
    assert sorted([*given.rglob("*"), *tmp_path.rglob("*")]) == before


# Several processes


def test_summaries_of_processes_are_merged(tmp_path):
    pairs = [PairPaths(name, tmp_path, tmp_path) for name in ("one", "two", "three")]
    parts = [many.summary_of(tmp_path, process, 2) for process in (0, 1)]
    many.write_summary(parts[0], [many.Outcome("three", "done", "", 1.0)])
    many.write_summary(parts[1], [many.Outcome("two", "failed", "why", 2.0)])
    assert [one.status for one in many.merge_summaries(tmp_path, pairs, 2)] == [
        "failed",  # no process tells of it
        "failed",
        "done",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.json"]
    rows = summary_of(tmp_path)["pairs"]
    assert "its process ended" in rows[0]["reason"]
    assert rows[1] == {"name": "two", "status": "failed", "reason": "why", "seconds": 2.0}


# Compilation


def test_a_second_pair_compiles_nothing(given):
    stage = CorrespondenceConfig(
        steps=2,
        features=str(given / "features.safetensors"),
        image_size=32,
        grid=8,
        taps=("relu1_1", "relu2_1"),
        gram_taps=("relu1_1",),
        contextual_taps=("relu2_1",),
        num_queries=16,
        augment=False,
    )
    inversion = InversionConfig(
        generator=str(given / "generator.safetensors"),
        composing_layers=(3,),
        num_codes=(2,),
        steps=2,
        perceptual_tap="relu2_1",
    )
    config, rng = Config(stage, inversion, SelectionConfig(tap="relu2_1")), np.random.default_rng(0)
    parts = pipeline.load_parts(config)
    compiled = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    counts = []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(3):
            before = len(compiled)
            photos = rng.uniform(size=(2, 40, 40, 3))
            pipeline.translate(*photos, config, parts=parts)
            counts.append(len(compiled) - before)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] >= 4  # the listener hears: two steps, two pictures
    assert counts[1:] == [0, 0]
