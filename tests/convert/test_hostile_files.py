"""Nothing that a file can hold runs, escapes as another error, or takes much memory or time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What one process noted while it read every file; the process must survive them all."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = [str(HERE.parents[1]), str(HERE)]
    done = subprocess.run(
        [sys.executable, "-B", HERE / "read_hostile_files.py", folder, folder / "report"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    noted = json.loads((folder / "report").read_text())
    return {**noted, "path": str(folder / "file")}


def group(report, word):
    return [noted for noted in report["files"] if noted["name"].startswith(word)]


def test_there_are_many_of_each(report):
    assert len(group(report, "attack")) >= 900
    assert len(group(report, "damage")) >= 600
    assert len(group(report, "harmless")) >= 8
    assert len({noted["name"] for noted in report["files"]}) == len(report["files"])


def test_no_file_runs_imports_or_writes_anything(report):
    assert any(event.startswith("compile ") for event in report["probe"]), "the watch is awake"
    assert [noted for noted in report["files"] if noted["events"]] == []


def test_no_other_error_escapes(report):
    assert [noted for noted in report["files"] if noted["outcome"] == "escaped"] == []


def test_every_attack_is_refused(report):
    assert [noted for noted in group(report, "attack") if noted["outcome"] != "refused"] == []


def test_refusals_are_one_printable_sentence_that_starts_with_the_path(report):
    refused = [noted["message"] for noted in report["files"] if noted["outcome"] == "refused"]
    start = report["path"] + ": "
    assert [m for m in refused if not (m.startswith(start) and m.isprintable())] == []
    assert max(len(message) - len(start) for message in refused) < 400
    assert [message for message in refused if not message.endswith(".")] == []


def test_what_would_have_been_called_is_named(report):
    calls = [noted for noted in group(report, "attack reduce ") if "nvidia" not in noted["name"]]
    assert len(calls) >= 40
    for noted in calls:
        full = noted["name"].split()[2].replace("__builtin__", "builtins")
        assert f"refers to {full}, which weights do not need" in noted["message"], noted


def test_harmless_files_are_read(report):
    assert [noted for noted in group(report, "harmless") if noted["outcome"] != "read"] == []
    assert sum(noted["tensors"] for noted in group(report, "harmless")) >= 10


def test_some_damage_is_found_and_some_cannot_be(report):
    outcomes = [noted["outcome"] for noted in group(report, "damage")]
    assert outcomes.count("refused") > 500  # structure
    assert outcomes.count("read") > 10  # a changed number is as good a number


def test_memory_stays_near_the_size_of_the_file(report):
    assert [n for n in report["files"] if n["peak"] > 2 * n["size"] + 200 * 2**20] == []


def test_no_file_takes_long(report):
    assert [noted for noted in report["files"] if noted["seconds"] > 15] == []
