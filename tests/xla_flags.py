"""Flags with which XLA compiles the tests' programs, in this process and in those that tests start."""

from pathlib import Path

OLDER_EMITTER = "--xla_cpu_use_fusion_emitters=false"


def flags(described: str) -> str:
    """For a processor, from the text of /proc/cpuinfo.

    With its older emitter of loops XLA compiles most of these programs in half the processor time.
    Where there is AVX-512 one program once came out 3 % off with it
    (benchmarks/results/README.md), so there, and where it is untried, XLA's own choice stays.
    """
    words = described.split()
    return OLDER_EMITTER if "avx2" in words and "avx512f" not in words else ""


FLAGS = "".join(flags(path.read_text()) for path in Path("/proc").glob("cpuinfo"))  # on Linux
