"""Reading and converting a VGG-19 file of the official size, against torch.load and NumPy.

`python -m benchmarks.reading --out OUT` makes two files of 143,667,240 random numbers in the
official layout (the zip container and the older stream that the published file is in), then runs
each task in a process of its own and prints time and peak memory; OUT/reading.json keeps them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.harness import circumstances

HEADER = """
import sys, time
from pathlib import Path
from benchmarks.harness import peak_mib, reset_peak
file, out = Path(sys.argv[1]), Path(sys.argv[2])
"""
FOOTER = """
seconds = time.perf_counter() - began
print(seconds, peak_mib() - start, total)
"""
BEGIN = """
start = reset_peak()
began = time.perf_counter()
"""
# What each process does; imports come before the clock starts, `total` is how much was read.
TASKS = {
    "ours, every tensor to NumPy": """
        from weights_convert.rules import flatten
        from weights_convert.torch_file import open_torch_file
        BEGIN
        with open_torch_file(file) as tree:
            arrays = {name: tensor.read() for name, tensor in flatten(tree).items()}
        total = sum(array.size for array in arrays.values())
    """,
    "torch.load, every tensor to NumPy": """
        import torch
        BEGIN
        state = torch.load(file, map_location="cpu", weights_only=True)
        arrays = {name: tensor.numpy().copy() for name, tensor in state.items()}
        total = sum(array.size for array in arrays.values())
    """,
    "ours, converted to a checked weight file": """
        from weights_convert.convert import convert
        BEGIN
        total = convert("vgg19", file, out / "ours.safetensors").num_values
    """,
    "torch.load, features transposed and saved by NumPy": """
        import numpy, torch
        BEGIN
        state = torch.load(file, map_location="cpu", weights_only=True)
        arrays = {name: numpy.ascontiguousarray(tensor.numpy().transpose(2, 3, 1, 0))
                  if tensor.ndim == 4 else tensor.numpy()
                  for name, tensor in state.items() if name.startswith("features")}
        numpy.savez(out / "theirs.npz", **arrays)
        total = sum(array.size for array in arrays.values())
    """,
}
WIDTHS = (64, 64, "M", 128, 128, "M", *4 * (256,), "M", *4 * (512,), "M", *4 * (512,), "M")
CLASSIFIER = ((0, 4096, 25088), (3, 4096, 4096), (6, 1000, 4096))


def make_files(folder: Path) -> dict[str, Path]:
    """Both containers of a random VGG-19 state dict in torchvision's layout."""
    import torch

    state, before, index = {}, 3, 0
    for width in WIDTHS:
        if isinstance(width, str):
            index += 1
            continue
        state[f"features.{index}.weight"] = torch.randn(width, before, 3, 3) / (before * 4.5) ** 0.5
        state[f"features.{index}.bias"] = torch.randn(width) / 10
        before, index = width, index + 2
    for place, out, into in CLASSIFIER:
        state[f"classifier.{place}.weight"] = torch.randn(out, into)
        state[f"classifier.{place}.bias"] = torch.randn(out)
    assert sum(tensor.numel() for tensor in state.values()) == 143_667_240
    files = {"zip": folder / "vgg19-zip.pth", "stream": folder / "vgg19-stream.pth"}
    for kind, file in files.items():
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    return files


def measure(task: str, file: Path, out: Path) -> dict[str, float]:
    """Seconds and MiB above what the imports took, of one fresh process."""
    body = textwrap.dedent(TASKS[task]).replace("BEGIN\n", BEGIN)
    command = [sys.executable, "-c", HEADER + body + FOOTER, str(file), str(out)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("seconds", "peak_mib", "numbers"), map(float, printed), strict=True))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for files and numbers")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    files = make_files(flags.out)
    rows: list[dict[str, Any]] = []
    for kind, file in files.items():
        file.read_bytes()  # every process finds the file in the page cache
        for task in TASKS:
            runs = [measure(task, file, flags.out) for _ in range(flags.repeats)]
            row = {
                "container": kind,
                "mib": round(file.stat().st_size / 2**20),
                "task": task,
                "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
                "spread": [round(run["seconds"], 2) for run in runs],
                "peak_mib": round(max(run["peak_mib"] for run in runs)),
                "numbers": int(runs[0]["numbers"]),
            }
            print(
                f"{kind:6} {task:52} {row['seconds']:6.2f} s  {row['peak_mib']:5d} MiB", flush=True
            )
            rows.append(row)
    report = {**circumstances(), "rows": rows}
    (flags.out / "reading.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
