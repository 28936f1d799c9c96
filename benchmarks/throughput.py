"""Speed of both stages against PyTorch and plain JAX, and how they scale.

`python -m benchmarks.throughput --out OUT --what cft` (or inversion, scaling, all) runs every
program in a process of its own; the programs of a group live at the same time and step in turn, so
that their ratios do not depend on what else the machine does. It takes the device that JAX takes,
a CPU, GPU or TPU, and PyTorch's own choice of GPU or CPU. Printed and kept in
OUT/throughput_WHAT.json: the first step (with compilation) and the median and spread of the others,
the ratio to the group's first row, peak memory above what the imports took, pairs or hypotheses a
second at the preset's number of steps, and the loss before and after the counted steps.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Subject, circumstances, serve, side_by_side
from oeft_jax.products import DEFAULT
from oeft_jax.products import precision as in_precision

WHATS = ("cft", "inversion", "scaling")
LAYOUTS = ("nchw", "channels_last")
SIZES = ("paper", "bundled", "tiny")
GROUP_ROUNDS = {"cft": 3, "inversion": 3, "scaling": 3}
PROBE = "import jax; d = jax.devices(); print(len(d), d[0].platform, d[0].device_kind, sep='|')"
# Several processes share a GPU: none may take all of its memory at its start.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


class Case(NamedTuple):
    """One row: a program, what it is called, and what one step of it does."""

    name: str
    program: str  # a key of jax_programs.PROGRAMS or torch_programs.PROGRAMS
    options: dict[str, Any]
    unit: str  # "pairs" or "hypotheses"
    number: int = 1  # of them in one step

    def subject(self) -> Subject:
        """The command of its process."""
        request = json.dumps({"program": self.program, **self.options})
        return Subject(self.name, ["-m", "benchmarks.throughput", "--child", request], ENVIRONMENT)


class Group(NamedTuple):
    """Cases that are compared with the first of them."""

    title: str
    size: str
    cases: list[Case]


def torch_cases(program: str, name: str, flags: argparse.Namespace, **options: Any) -> list[Case]:
    """A PyTorch program in every layout, eager and if asked for compiled."""
    unit = "pairs" if program == "torch_fine_tuning" else "hypotheses"
    return [
        Case(
            f"PyTorch {'compiled' if compiled else 'eager'}, {name}{layout}",
            program,
            {**options, "layout": layout, "compiled": compiled},
            unit,
        )
        for compiled in ((False, True) if flags.torch_compile else (False,))
        for layout in flags.layouts
    ]


def cft(flags: argparse.Namespace) -> Iterator[Group]:
    """The step of correspondence fine-tuning, original and augmented pair."""
    for size in flags.sizes:
        options = {"size": size}
        cases = [
            Case("ours", "fine_tuning", options, "pairs"),
            Case("ours, bfloat16", "fine_tuning", {**options, "precision": "bfloat16"}, "pairs"),
            Case("plain JAX", "fine_tuning_plain", options, "pairs"),
            *torch_cases("torch_fine_tuning", "", flags, **options),
        ]
        yield Group(f"fine-tuning step, {size} settings", size, cases)


def inversion(flags: argparse.Namespace) -> Iterator[Group]:
    """The step of multiple GAN inversion: one hypothesis, and eight (two of the tiny networks)."""
    from benchmarks.networks import CODES, COUNTS, LAYER, LAYERS, TINY

    for size in flags.sizes:
        one = {"size": size, "plan": [[LAYER, CODES]]}
        yield Group(
            f"inversion step, {CODES} codes at layer {LAYER}, {size} networks",
            size,
            [
                Case("ours", "inversion", one, "hypotheses"),
                Case("ours, bfloat16", "inversion", {**one, "precision": "bfloat16"}, "hypotheses"),
                *torch_cases("torch_inversion", "one code at a time, ", flags, **one),
                *torch_cases("torch_inversion_batched", "codes as a batch, ", flags, **one),
            ],
        )
        layers = LAYERS[:1] if size == TINY else LAYERS
        plan = [[layer, count] for layer in layers for count in COUNTS]
        eight = {"size": size, "plan": plan}
        yield Group(
            f"inversion step, {len(plan)} hypotheses, {size} networks",
            size,
            [
                Case("each alone", "inversion_alone", eight, "hypotheses", len(plan)),
                Case("one program", "inversion", eight, "hypotheses", len(plan)),
            ],
        )


def scaling(flags: argparse.Namespace, num_devices: int) -> Iterator[Group]:
    """Both stages at several sizes of one thing at a time, each of the bundled networks."""
    size = "tiny" if flags.sizes == ["tiny"] else "bundled"
    sides, grids = ((32, 64), (8, 16)) if size == "tiny" else ((128, 256, 512), (32, 64, 128))
    pairs, codes = {"size": size}, 10

    def tuning(name: str, number: int = 1, **options: Any) -> Case:
        program = "fine_tuning_pairs" if "devices" in options else "fine_tuning"
        return Case(name, program, {**pairs, **options}, "pairs", number)

    def inverting(name: str, number: int, **options: Any) -> Case:
        plan = [[layer, codes + extra] for layer in (4, 6) for extra in range(number // 2)]
        options = {**pairs, "plan": plan or [[6, codes]], **options}
        return Case(name, "inversion", options, "hypotheses", number)

    yield Group(
        "fine-tuning: image size, a cell for 4 pixels",
        size,
        [tuning(f"{side} pixels", image_size=side, grid=side // 4) for side in sides],
    )
    yield Group(
        f"fine-tuning: cells on a side, {sides[-2]} pixels",
        size,
        [tuning(f"{grid} x {grid} cells", image_size=sides[-2], grid=grid) for grid in grids],
    )
    yield Group(
        f"inversion: hypotheses, {codes} codes and more",
        size,
        [inverting(f"{number} hypotheses", number) for number in (1, 2, 4, 8)],
    )
    counts = [number for number in (1, 2, 4, 8) if number <= num_devices]
    yield Group(
        "fine-tuning: devices, a pair on each",
        size,
        [tuning(f"{n} devices", n, devices=n, image_size=sides[0], grid=grids[0]) for n in counts],
    )
    yield Group(
        "inversion: devices, 8 hypotheses",
        size,
        [inverting(f"{number} devices", 8, devices=number) for number in counts],
    )


def measure(group: Group, rounds: int, *, together: bool) -> dict[str, Any]:
    """A group's rows."""
    from benchmarks.networks import inversion_settings, settings

    steps = {
        "pairs": settings(group.size).steps,
        "hypotheses": inversion_settings(group.size).steps,
    }
    rows = side_by_side([case.subject() for case in group.cases], rounds, together=together)
    for case, row in zip(group.cases, rows, strict=True):
        if row["seconds"]:
            rate = case.number / row["median_s"] / steps[case.unit]
            row[f"{case.unit}_per_second"] = rate
        if row["seconds"] and rows[0]["seconds"] and _platform(row) == _platform(rows[0]):
            turns = zip(row["seconds"], rows[0]["seconds"], strict=True)
            ratios = [mine / first for mine, first in turns]
            row["ratio"] = statistics.median(ratios)
            row["ratio_spread"] = [min(ratios), max(ratios)]
    return {"title": group.title, "steps": steps, "rows": rows}


def _platform(row: dict[str, Any]) -> str:
    return str(row["device"].split(":")[0])


def line(row: dict[str, Any]) -> str:
    """A row of the printed table."""
    name = f"  {row['name']:48}"
    if not row["seconds"]:
        return f"{name} {row.get('error', 'not measured')}"
    low, high = row["spread_s"]
    rate = next(f"{row[key]:9.3g} {key[:10]}/s" for key in row if key.endswith("_per_second"))
    rate = rate.replace("_per_/s", "/s")
    peak = "?" if row.get("peak_mib") is None else f"{row['peak_mib']:.0f}"
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
    return (
        f"{name} {row['median_s']:8.3f} s ({low:.3f} to {high:.3f})  x {ratio:>5}"
        f"  compile {row['compile_s']:6.1f} s  {peak:>6} MiB {rate}"
        f"  loss {row['first_loss']:.4f} -> {row['last_loss']:.4f}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the numbers")
    parser.add_argument("--what", choices=(*WHATS, "all"), default="all")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["paper", "bundled"])
    parser.add_argument("--rounds", type=int, help="counted steps of each program")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument(
        "--apart",
        action="store_true",
        help="one program after the other: where what is idle is taken out of memory",
    )
    parser.add_argument("--torch-compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        child(**json.loads(flags.child))
        return
    probe = [sys.executable, "-c", PROBE]
    found = subprocess.run(probe, check=True, capture_output=True, text=True).stdout
    number, platform, kind = found.splitlines()[-1].split("|")
    num_devices = 4 if platform == "cpu" else int(number)  # on a CPU they are forced
    together = platform != "tpu" and not flags.apart
    made = {"cft": lambda: cft(flags), "inversion": lambda: inversion(flags)}
    made["scaling"] = lambda: scaling(flags, num_devices)
    for what in WHATS if flags.what == "all" else (flags.what,):
        groups = []
        for group in made[what]():
            print(group.title, flush=True)
            rounds = flags.rounds or GROUP_ROUNDS[what]
            groups.append(measure(group, rounds, together=together))
            print("\n".join(line(row) for row in groups[-1]["rows"]), flush=True)
        if flags.out:
            flags.out.mkdir(parents=True, exist_ok=True)
            place = circumstances(f"{platform}: {kind}")
            report = {**place, "apart": not together, "groups": groups}
            text = json.dumps(report, indent=1) + "\n"
            (flags.out / f"throughput_{what}.json").write_text(text, "utf-8")


def child(program: str, precision: str = DEFAULT, **options: Any) -> None:
    """Serves one program; only the library that it needs is loaded, before memory is counted."""
    if program.startswith("torch"):
        from benchmarks import torch_programs as programs
    else:
        from benchmarks import jax_programs as programs  # type: ignore[no-redef]
    with in_precision(precision):
        serve(lambda: programs.PROGRAMS[program](**options))


if __name__ == "__main__":
    main()
