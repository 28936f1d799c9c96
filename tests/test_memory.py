"""What is left on a device, read from files as Linux writes them, and running out of it."""

import types

import jax
import jax.numpy as jnp
import pytest

from oeft_jax import memory

MIB = 2**20
NO_LIMIT = 9223372036854771712  # as control groups of version 1 write it


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """(folder of processes, folder of control groups) of a machine with 1000 MiB to give."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    lines = ["MemTotal: 4096000 kB", "MemFree: 512000 kB", f"MemAvailable: {1000 * 1024} kB"]
    (proc / "meminfo").write_text("\n".join(lines))
    (proc / "self" / "cgroup").write_text("0::/\n")
    (proc / "self" / "statm").write_text("1000 900 800 1 0 2 0")
    limit = (memory.resource.RLIM_INFINITY,) * 2
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: limit)
    return proc, groups


def group(folder, limit, usage, stat, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(stat)


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def test_a_machine_gives_what_is_available(linux):
    assert memory.host_free_bytes(*linux) == 1000 * MIB


def test_a_control_group_of_version_2_leaves_limit_less_usage_less_dropped_pages(linux):
    group(linux[1], 800 * MIB, 500 * MIB, f"anon 5\ninactive_file {100 * MIB}\n")
    assert memory.host_free_bytes(*linux) == 400 * MIB


def test_the_parent_of_a_control_group_limits_too(linux):
    (linux[0] / "self" / "cgroup").write_text("0::/job/step\n")
    group(linux[1] / "job" / "step", "max", 5 * MIB, "")
    group(linux[1] / "job", 300 * MIB, 100 * MIB, "")
    assert memory.host_free_bytes(*linux) == 200 * MIB


def test_a_control_group_of_version_1(linux):
    (linux[0] / "self" / "cgroup").write_text("5:cpu:/\n4:memory:/job\n0::/\n")
    top = linux[1] / "memory"
    group(top, NO_LIMIT, 900 * MIB, "", V1)
    group(top / "job", 700 * MIB, 300 * MIB, f"total_inactive_file {50 * MIB}\n", V1)
    assert memory.host_free_bytes(*linux) == 450 * MIB
    group(top / "job", NO_LIMIT, 300 * MIB, "", V1)
    assert memory.host_free_bytes(*linux) == 1000 * MIB


def test_a_group_of_which_the_container_sees_the_top_only(linux):
    (linux[0] / "self" / "cgroup").write_text("4:memory:/docker/abc\n")
    group(linux[1] / "memory", 600 * MIB, 100 * MIB, "", V1)
    assert memory.host_free_bytes(*linux) == 500 * MIB


def test_an_address_space_that_is_limited(linux, monkeypatch):
    page = memory.resource.getpagesize()
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (1000 * page + 7 * MIB, -1))
    assert memory.host_free_bytes(*linux) == 7 * MIB


def test_less_than_nothing_is_nothing(linux):
    group(linux[1], 100 * MIB, 120 * MIB, "")
    assert memory.host_free_bytes(*linux) == 0


def test_elsewhere_all_memory_counts_or_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)  # as on Windows
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", lambda name: pages[name])
    assert memory.host_free_bytes(tmp_path, tmp_path) == 4096000
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.host_free_bytes(tmp_path, tmp_path) is None


def device(platform, stats):
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)


def test_an_accelerator_says_it_itself():
    gpu = device("gpu", {"bytes_limit": 900, "bytes_in_use": 200})
    assert memory.free_bytes(gpu) == 700
    assert memory.free_bytes(device("tpu", None)) is None


def test_this_machine_has_something_left():
    left = memory.free_bytes()
    assert left is None or left > MIB


# Running out


def test_an_array_that_is_too_large_names_the_stage():
    with (
        pytest.raises(memory.OutOfMemory, match="in the third stage") as caught,
        memory.guard("the third stage"),
    ):
        jax.block_until_ready(jnp.zeros(2**47, jnp.uint8))  # more than an address space holds
    assert caught.value.stage == "the third stage"
    assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)


def test_numpy_and_python_run_out_too():
    with pytest.raises(memory.OutOfMemory), memory.guard("a stage"):
        raise MemoryError


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("INTERNAL: a bug"), KeyError("x")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, memory.guard("a stage"):
        raise error
    assert caught.value is error


def test_the_innermost_stage_is_the_one_that_is_named():
    with pytest.raises(memory.OutOfMemory) as caught, memory.guard("outer"), memory.guard("inner"):
        raise MemoryError
    assert caught.value.stage == "inner"
