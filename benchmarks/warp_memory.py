"""Time and memory of the warp (Eq. 6), forward and backward, against the matrix of all pairs.

`python -m benchmarks.warp_memory --out OUT` runs each size in a process of its own: the tiled form
up to 256 x 256 cells, where one dense matrix would be 16 GiB, and the dense form and PyTorch's
where they fit. Times are medians after one warming run; peaks are the process's, above what it held
before. OUT/warp_memory.json keeps them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import circumstances, peak_mib, reset_peak

CHANNELS = 352  # of the bundled network's hypercolumn
WIDTH = 3  # of the values: one pixel a cell
FORMS = ("tiled", "dense", "torch")


def arrays(cells: int) -> tuple[Any, Any, Any]:
    """Unit vectors that match somewhere, and values."""
    import numpy as np

    rng = np.random.default_rng(0)
    source = rng.normal(size=(1, cells, CHANNELS)).astype(np.float32)
    target = source[:, rng.permutation(cells)] + 0.3 * rng.normal(size=source.shape)
    made = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (source, target)]
    return made[0], made[1].astype(np.float32), rng.random((1, cells, WIDTH), np.float32)


def make_jax(form: str, tile: int) -> Any:
    """(source, target, values) -> gradients of a scalar of the warp."""
    import jax
    import jax.numpy as jnp

    from oeft_jax.correlation import Matches
    from oeft_jax.warp import warp

    def dense(source: Any, target: Any, values: Any) -> Any:
        matrix = jnp.einsum("npc,nqc->npq", source, target, precision="highest")
        weights = jax.nn.softmax(100.0 * matrix, axis=-1)
        return jnp.einsum("npq,nqd->npd", weights, values, precision="highest")

    def tiled(source: Any, target: Any, values: Any) -> Any:
        return warp(values, Matches(source, target), alpha=100.0, tile=tile)

    warped = tiled if form == "tiled" else dense
    step = jax.jit(jax.value_and_grad(lambda *x: jnp.sum(warped(*x) ** 2), argnums=(0, 1, 2)))
    return lambda *inputs: jax.block_until_ready(step(*inputs))


def make_torch() -> Any:
    """The same mathematics in eager PyTorch."""
    import torch

    torch.set_flush_denormal(True)  # or a softmax this sharp runs nine times slower

    def step(*inputs: Any) -> None:
        source, target, values = (torch.from_numpy(x).requires_grad_() for x in inputs)
        weights = torch.softmax(100.0 * source @ target.transpose(1, 2), dim=-1)
        ((weights @ values) ** 2).sum().backward()

    return step


def child(form: str, cells: int, tile: int, repeats: int) -> None:
    """Prints seconds of every run and the peak in MiB."""
    inputs = arrays(cells)
    step = make_torch() if form == "torch" else make_jax(form, tile)
    if form != "torch":
        import jax

        jax.block_until_ready(jax.numpy.zeros(1))
    before = reset_peak()
    step(*inputs)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step(*inputs)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib() - before}))


def measure(form: str, grid: int, tile: int, repeats: int) -> dict[str, Any]:
    """One row, of a fresh process."""
    words = ["--child", form, "--grid", str(grid), "--tile", str(tile), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "benchmarks.warp_memory", *words]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = json.loads(printed.splitlines()[-1])
    median = statistics.median(row["seconds"])
    cells = grid * grid
    return {
        "form": form,
        "grid": grid,
        "tile": tile if form == "tiled" else None,
        "seconds": round(median, 3),
        "spread": [round(value, 3) for value in row["seconds"]],
        "nanoseconds_per_pair": round(median / cells**2 * 1e9, 3),
        "peak_mib": round(row["peak_mib"]),
        "dense_matrix_mib": round(cells**2 * 4 / 2**20),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the numbers")
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--grid", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tile", type=int, default=512, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.child, flags.grid**2, flags.tile, flags.repeats)
        return
    plan = [(form, grid, 512) for grid in (32, 64, 96) for form in ("dense", "torch")]
    plan += [("tiled", grid, tile) for grid in (32, 64, 96) for tile in flags.tiles]
    plan += [("tiled", 128, 512), ("tiled", 256, 512)]
    rows = []
    for form, grid, tile in plan:
        row = measure(form, grid, tile, 1 if grid > 128 else flags.repeats)
        print(
            f"{form:6} {grid:4} x {grid:<4} tile {row['tile'] or '-':<5} {row['seconds']:8.3f} s "
            f"{row['nanoseconds_per_pair']:7.2f} ns/pair {row['peak_mib']:6} MiB",
            flush=True,
        )
        rows.append(row)
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        report = {**circumstances(), "channels": CHANNELS, "width": WIDTH, "rows": rows}
        (flags.out / "warp_memory.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
