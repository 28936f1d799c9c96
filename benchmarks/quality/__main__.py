"""How good the results are: `python -m benchmarks.quality --data DATA --out OUT`.

Tunes, warps and inverts the pairs of a data folder and measures matching against ground truth,
pictures against source and target, inversion and selection. Writes OUT/quality.md (tables),
OUT/quality.json (the same numbers with their circumstances), OUT/sheet-*.png and OUT/rows.jsonl,
which holds every single number; a run that is started again does only what is missing there.

`--dino` and `--lpips` measure in networks that `python -m weights_convert fetch` puts into the cache;
what a run had done before it was given them stays as it was.

Numbers in brackets are 95 % bootstrap intervals over pairs; those behind a column's name count the
pairs. The whole takes about three hours on two CPU cores; `--sections`, `--pairs` and the other
amounts choose less.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.quality import judge, pairs, perceptual, sections, summary, variants
from benchmarks.quality.comparators import COMPARATORS
from benchmarks.quality.runs import Kept
from benchmarks.quality.sections import Amount, Bench
from oeft_jax import pipeline, process, report
from oeft_jax._checks import InputError, check_choice
from oeft_jax.models import lpips

SECTIONS = ("tuning", "ablation", "comparators", "inversion", "selection")
TRUTHS = ("labels", "landmarks", "known warps", "bent and restyled", "SPair", "WILLOW")
NONE = "none"  # of sections or truths


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    amount = Amount()
    made.add_argument("--data", type=Path, required=True, help="folder with pairs.json")
    made.add_argument("--out", type=Path, required=True, help="folder to write, or to continue")
    made.add_argument("--sections", type=_words, default=SECTIONS, metavar="A,B,...")
    made.add_argument("--size", type=int, default=amount.size, help="working size in pixels")
    made.add_argument("--steps", type=_numbers, default=(0, 10, 20, 30, 80), metavar="A,B,...")
    made.add_argument("--pairs", type=int, default=amount.pairs)
    made.add_argument(
        "--labelled", type=int, default=amount.labelled, help="pairs of labelled faces"
    )
    made.add_argument("--points", type=int, default=amount.points, help="pairs of each family")
    made.add_argument("--truths", type=_words, default=TRUTHS, metavar="A,B,...")
    made.add_argument(
        "--half", choices=pairs.HALVES, default="report", help="of tuning and selection"
    )
    made.add_argument(
        "--variants",
        type=_words,
        default=tuple(variants.VARIANTS),
        metavar="A,B,...",
        help=f"of the ablation: {', '.join(variants.VARIANTS)}",
    )
    made.add_argument("--ablation-steps", type=_numbers, default=(0, 20), metavar="A,B,...")
    made.add_argument("--ablation-pairs", type=int, default=6)
    made.add_argument("--ablation-half", choices=pairs.HALVES, default="choose")
    made.add_argument("--compared-pairs", type=int, default=8)
    made.add_argument("--inverted", type=int, default=amount.inverted, help="of each origin")
    made.add_argument("--selected-pairs", type=int, default=8)
    made.add_argument("--inversion-steps", type=int, default=30, help="of every hypothesis")
    made.add_argument("--seeds", type=int, default=amount.seeds, help="of inversions")
    made.add_argument(
        "--dino",
        metavar="NAME",
        help="judge pictures by this network too: dino_vits8, dino_vitb8, ... or a .safetensors file",
    )
    made.add_argument(
        "--lpips",
        choices=tuple(lpips.TRUNKS),
        help="measure inversions by LPIPS with this trunk too",
    )
    made.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="pictures ID.png that another program made of the same pairs",
    )
    return made.parse_args(arguments)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({0, *(int(word) for word in text.split(","))}))


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes; returns the exit code."""
    args = parse(arguments)
    try:
        bench = prepare(args)
        measure(bench, args)
    except InputError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    print(summary.write(args.out, bench.kept.rows, device=report.device_name()))
    first, last = args.steps[0], args.steps[-1]
    looks = (f"voted-{first}", f"voted-{last}", f"finished-{first}", f"finished-{last}")
    names = [f"{variants.DEFAULT}-{look}" for look in looks]
    summary.picture_sheets(args.out, args.data, half=args.half, size=args.size, names=names)
    return 0


def prepare(args: argparse.Namespace) -> Bench:
    """Networks and what is already there. Raises InputError for a folder or words that will not do."""
    for flag, words, known in (
        ("--sections", args.sections, SECTIONS),
        ("--truths", args.truths, TRUTHS),
    ):
        for word in words:
            check_choice(flag, word, (*known, NONE))
    process.prepare()
    pairs.listed(args.data)
    given = [judge.dino(args.dino)] if args.dino else []
    distance = perceptual.load(args.lpips) if args.lpips else None
    parts = pipeline.load_parts(variants.settings(variants.DEFAULT, size=args.size, steps=1))
    args.out.mkdir(parents=True, exist_ok=True)
    amount = Amount(args.size, args.pairs, args.labelled, args.points, args.inverted, args.seeds)
    judges = [judge.squeezenet(args.data), judge.real_vgg(args.data), *given]
    rows = Kept(args.out / "rows.jsonl")
    return Bench(args.data, args.out, rows, parts, judges, amount, distance)


def measure(bench: Bench, args: argparse.Namespace) -> None:
    """Every section that was asked for."""
    if "tuning" in args.sections:
        sections.tuning(bench, variants.DEFAULT, half=args.half, at=args.steps, truths=args.truths)
    if "ablation" in args.sections:
        less = bench._replace(amount=bench.amount._replace(pairs=args.ablation_pairs))
        for variant in args.variants:
            sections.tuning(
                less,
                variant,
                half=args.ablation_half,
                at=args.ablation_steps,
                truths=args.truths,
            )
    if "comparators" in args.sections:
        sections.comparators(bench, tuple(COMPARATORS), args.compared_pairs)
    for word in args.external:
        name, _, folder = word.partition("=")
        sections.external(bench, name, Path(folder))
    if "inversion" in args.sections:
        sections.inversion(bench, args.inversion_steps)
    if "selection" in args.sections:
        sections.selection(bench, args.inversion_steps, args.selected_pairs, args.half)


if __name__ == "__main__":
    sys.exit(main())
