"""The benchmark of speed: every program runs at tiny sizes, and rows hold what they claim."""

import json
import platform
import sys

import pytest

from benchmarks import harness, throughput

pytest.importorskip("torch")

ECHO = """
from benchmarks.harness import Program, serve
made = []
def step():
    made.append({delay})
    if len(made) == {fails_at}: raise ValueError("out of order")
    return float(len(made))
print("a library says something")
serve(lambda: Program(step, "cpu: test", lambda: None))
"""


def subject(name, fails_at=0):
    return harness.Subject(name, ["-c", ECHO.format(delay=0, fails_at=fails_at)])


def test_rows_hold_the_counted_steps():
    (row,) = harness.side_by_side([subject("one")], 3)
    assert row["name"] == "one"
    assert row["device"] == "cpu: test"
    assert len(row["seconds"]) == 3
    assert row["losses"] == [1.0, 2.0, 3.0, 4.0, 5.0]  # the first, one more, three counted
    assert (row["first_loss"], row["last_loss"]) == (1.0, 5.0)
    low, high = row["spread_s"]
    assert low <= row["median_s"] <= high
    assert row["compile_s"] >= 0
    if sys.platform == "linux":
        assert row["peak_mib"] >= 0


@pytest.mark.parametrize("together", [True, False])
def test_a_program_that_fails_leaves_the_others(together):
    """At its first step, which compiles, at the one that is not counted, or in the middle."""
    bad = [subject(f"bad at {step}", step) for step in (1, 2, 4)]
    subjects = [subject("good"), *bad, subject("better")]
    rows = harness.side_by_side(subjects, 3, together=together)
    assert [row["name"] for row in rows] == [one.name for one in subjects]
    good, *failed, better = rows
    assert "error" not in good | better
    assert len(good["seconds"]) == len(better["seconds"]) == 3
    for row in failed:
        assert row["error"] == "ValueError: out of order"
        assert "out of order" in throughput.line({**row, "seconds": []})


SEVERAL = """processor\t: 0
model name\t: Some Chip 9
flags\t\t: fpu avx avx2 avx512fp16 amx_bf16

processor\t: 1
model name\t: Another
flags\t\t: avx512f
"""


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        (SEVERAL, "Some Chip 9, avx2, amx_bf16"),
        ("model name\t: No Flags: 2", "No Flags: 2"),
        ("processor\t: 0\nFeatures\t: fp asimd\n", platform.machine()),
        ("", platform.machine()),
    ],
)
def test_a_processor_is_named_with_its_wide_instructions(described, expected):
    assert harness.processor(described) == expected


@pytest.fixture
def shared_programs(tmp_path, monkeypatch):
    """Children that are started with the same program need not compile it again."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def run(tmp_path, what):
    words = ["--sizes", "tiny", "--rounds", "1", "--layouts", "nchw"]
    throughput.main(["--out", str(tmp_path), "--what", what, *words])
    return json.loads((tmp_path / f"throughput_{what}.json").read_text())


def test_fine_tuning_is_compared_with_plain_jax_and_pytorch(tmp_path, capsys):
    report = run(tmp_path, "cft")
    (group,) = report["groups"]
    ours, low, plain, torch = group["rows"]
    names = ["ours", "ours, bfloat16", "plain JAX", "PyTorch eager, nchw"]
    assert [row["name"] for row in group["rows"]] == names
    assert low["losses"] == pytest.approx(ours["losses"], rel=0.05)
    assert ours["ratio"] == 1
    assert plain["ratio"] == pytest.approx(plain["median_s"] / ours["median_s"])
    assert plain["losses"] == pytest.approx(ours["losses"], rel=1e-3)  # the same mathematics
    assert torch["losses"] == pytest.approx(ours["losses"], rel=0.5)  # and draws of its own
    rate = 1 / ours["median_s"] / group["steps"]["pairs"]
    assert ours["pairs_per_second"] == pytest.approx(rate)
    assert report["versions"]["jax"]
    assert report["processor"]
    assert "PyTorch eager, nchw" in capsys.readouterr().out


def test_inversion_is_compared_with_pytorch_and_with_one_alone(tmp_path, shared_programs):
    one, eight = run(tmp_path, "inversion")["groups"]
    for row in one["rows"]:  # the same start values and no draws: the same losses
        assert row["losses"] == pytest.approx(one["rows"][0]["losses"], rel=1e-3)
    assert len(one["rows"]) == 4
    alone, together = eight["rows"]
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    assert together["last_loss"] < together["first_loss"]


def test_a_pair_on_each_of_two_devices(tmp_path):
    case = throughput.Case(
        "2 devices", "fine_tuning_pairs", {"size": "tiny", "devices": 2}, "pairs"
    )
    (row,) = harness.side_by_side([case.subject()], 1)
    assert "error" not in row
    assert row["losses"][0] > 0
