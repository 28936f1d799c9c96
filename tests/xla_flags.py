"""Flags with which XLA compiles the tests' programs, in this process and in those that tests start."""

from pathlib import Path

OLDER_LOOPS = "--xla_cpu_use_fusion_emitters=false"
ONE_PART = "--xla_cpu_parallel_codegen_split_count=1"


def flags(described: str) -> str:
    """For a processor, from the text of /proc/cpuinfo.

    With its older emitter of loops XLA compiles most of these programs in half the processor time.
    The whole suite was run with it where there is AVX2 alone; elsewhere XLA's own choice stays. Parts
    that are compiled at once are a tenth more work, and the other core has a process of its own.
    """
    words = described.split()
    return f"{ONE_PART} {OLDER_LOOPS}" if "avx2" in words and "avx512f" not in words else ONE_PART


FLAGS = "".join(flags(path.read_text()) for path in Path("/proc").glob("cpuinfo"))  # on Linux
