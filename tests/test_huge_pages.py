"""The allocator's settings, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from oeft_jax import huge_pages

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import resource
import sys
from oeft_jax import huge_pages

if {use}:
    assert huge_pages.use()
def faults():
    block = b"x" * 2**28  # 256 MiB, touched and given back
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = faults()
print(faults() - first)
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not huge_pages._c_library(), reason="needs glibc")
@pytest.mark.skipif(
    not ENABLED.is_file() or "[never]" in ENABLED.read_text(), reason="no transparent huge pages"
)
def test_a_block_used_again_costs_no_page_faults():
    (usual,), (ours,) = run(SCRIPT.format(use=False)), run(SCRIPT.format(use=True))
    assert int(usual) > 50_000 > 5_000 > int(ours)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    assert not huge_pages.use()
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    monkeypatch.setattr(huge_pages, "_c_library", lambda: "musl")
    assert not huge_pages.use()


@pytest.mark.skipif(not huge_pages._c_library(), reason="needs glibc")
@pytest.mark.skipif(not ENABLED.is_file(), reason="no transparent huge pages")
def test_a_block_of_any_size_lies_in_the_reserve_and_the_reserve_stays():
    script = """
import ctypes
from oeft_jax import huge_pages
from oeft_jax.memory import host_free_bytes
least = int(0.4 * host_free_bytes())
assert huge_pages.use()
block = bytearray(2**31 - 2**20)  # as good as untouched: the system's zeros
middle = ctypes.addressof(ctypes.c_char.from_buffer(block)) + 2**30
del block
inside = wide = False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0] and not line.split()[0].endswith(":"):
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        inside, wide = low <= middle < high, high - low >= least
    if line.startswith("VmFlags") and inside and wide:
        print("hg" in line.split())
"""
    assert run(script) == ["True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_a_limit_on_the_address_space_is_no_error():
    script = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
from oeft_jax import huge_pages
huge_pages.use()
print(len(bytearray(2**27)))
"""
    assert run(script) == [str(2**27)]
