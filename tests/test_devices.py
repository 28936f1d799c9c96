"""Pairs spread over 8 devices, and a list shared by two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_networks import fill
from xla_flags import FLAGS

import oeft_jax

ROOT = Path(oeft_jax.__file__).parents[1]
SMALL = """
  --image-size 32 --grid 8 --steps 2 --no-augment --num-queries 16 --refine never
  --taps relu1_1,relu2_1 --gram-taps relu1_1 --contextual-taps relu2_1
  --inversion-perceptual-tap relu2_1 --selection-tap relu2_1
"""
FILES = {"translation.png", "warped.png", "overview.png", "losses.csv", "losses.png"}
FILES |= {"manifest.json", "confidence.png"}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with tiny weights and photos."""
    return fill(tmp_path_factory.mktemp("given"))


def environment(folder, **more):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PLATFORMS": "cpu"}
    own = {"XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **cache, **own, **more}


# Devices


@pytest.fixture(scope="module")
def groups(given, tmp_path_factory):
    """What group_program.py says of pairs in groups on 8 devices."""
    words = [sys.executable, str(Path(__file__).with_name("group_program.py"))]
    words += [str(given), str(tmp_path_factory.mktemp("states"))]
    flags = f"{FLAGS} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        words, env=environment(given, XLA_FLAGS=flags), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_pair_is_the_same_in_a_group_and_alone(groups):
    assert groups["devices"] == 8
    assert groups["tuned"] > 2e-3  # the steps moved the warp far more than rounding does
    assert min(groups["between pairs"].values()) > 0.1
    for apart in groups["apart"] + groups["apart in another group"]:
        assert apart.pop("losses") < 1e-3  # of about 5
        assert max(apart.values()) < 2e-4, apart
    assert groups["untuned"] < 1e-5
    assert groups["marks"] == [0, 2, 4]


def test_a_pair_that_goes_non_finite_keeps_its_state_and_ends_alone(groups):
    assert "step 1: loss term 'spoiled' is not finite" in groups["error"]
    assert groups["good steps"] == 0
    assert groups["saved"] == ["0"]


def test_a_second_group_compiles_nothing(groups):
    assert groups["compiled later"] == 0


def test_progress_of_a_group_is_that_of_its_last_pair(groups):
    assert groups["told"] == [1, 2, 3, 4]  # though one pair went on from step 2


# Processes


def words_for(given, out, *more):
    networks = ["--features", given / "features.safetensors"]
    networks += ["--inversion-generator", given / "generator.safetensors"]
    words = [sys.executable, "-m", "oeft_jax.translate", *networks, *SMALL.split()]
    return [str(word) for word in [*words, "--out", out, *more]]


def together(given, out, *more):
    """(exit code, stdout, stderr) of two processes that share a list."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", 2]
    running = [
        subprocess.Popen(
            words_for(given, out, *more, *common, "--process-id", process),
            cwd=out.parent,
            env=environment(given),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in (0, 1)
    ]
    try:
        outputs = [one.communicate(timeout=300) for one in running]
    finally:
        for one in running:
            one.kill()
    return [(one.returncode, *output) for one, output in zip(running, outputs, strict=True)]


@pytest.fixture(scope="module")
def shared(given, tmp_path_factory):
    """(the folder, what two processes said) of a list whose third pair is no pair."""
    out = tmp_path_factory.mktemp("shared") / "out"
    rows = ["source,target,name", "a.png,b.png,one", "c.png,d.png,two"]
    rows += ["nowhere.png,b.png,three", "b.png,a.png,four"]
    (given / "list.csv").write_text("\n".join(rows))
    return out, together(given, out, "--pairs", given / "list.csv")


def test_two_processes_do_each_pair_once(shared):
    out, said = shared
    assert [code for code, _, _ in said] == [1, 0], said  # the third pair is process 0's
    for name, process in (("one", 0), ("two", 1), ("four", 1)):
        assert {path.name for path in (out / name).iterdir()} == FILES
        assert f"process {process}: {name} done" in said[process][2]
        assert f"{name} done" not in said[1 - process][2]
    assert {path.name for path in out.iterdir()} == {"one", "two", "four", "pairs.json"}


def test_the_summary_has_every_pair_in_the_order_of_the_list(shared):
    out, _ = shared
    summary = json.loads((out / "pairs.json").read_text("utf-8"))
    assert (summary["done"], summary["skipped"], summary["failed"]) == (3, 0, 1)
    assert [row["name"] for row in summary["pairs"]] == ["one", "two", "three", "four"]
    assert "nowhere.png" in summary["pairs"][2]["reason"]


def test_two_processes_make_what_one_makes(shared, given, tmp_path):
    words = words_for(given, tmp_path / "out", "--source", given / "c.png")
    words += ["--target", str(given / "d.png")]
    done = subprocess.run(words, cwd=ROOT, env=environment(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in FILES - {"manifest.json"}:
        alone = (tmp_path / "out" / name).read_bytes()
        assert (shared[0] / "two" / name).read_bytes() == alone, name


def test_without_a_cluster_distributed_is_refused_in_one_line(given, tmp_path):
    words = words_for(given, tmp_path / "out", "--distributed", "--pairs", given / "list.csv")
    (given / "list.csv").write_text("source,target\na.png,b.png\n")
    bare = {k: v for k, v in environment(given).items() if not k.startswith(("SLURM", "OMPI"))}
    done = subprocess.run(words, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "no cluster was recognised" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
