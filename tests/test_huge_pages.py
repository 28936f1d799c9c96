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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_a_limit_on_the_address_space_is_no_error():
    script = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
from oeft_jax import huge_pages
print(huge_pages.use(), len(bytearray(2**27)))
"""
    assert run(script) == ["False", str(2**27)]
