"""Measures face generators: `python -m training.evaluate_generator`.

Five things for every weight file: a sheet of 40 uncurated samples; the Frechet distance between
samples and training faces in SqueezeNet features, beside that of two disjoint halves of the real
set; how often a linear classifier tells them apart by what feature networks see; the training faces nearest to ten samples, beside those of ten held-out faces; and how near
inversion comes to held-out faces with one code and with several. Writes `evaluation.json` and
pictures; prints one table.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from oeft_jax._checks import InputError, check_range
from oeft_jax.metrics import frechet_distance
from oeft_jax.models.backbone import backbone
from oeft_jax.models.backbone import generator as build
from oeft_jax.models.generator import Generator
from oeft_jax.weights import Weights, load_weights
from training import cli, neighbours, photos, sheets, squeezenet
from training.invertibility import invert
from training.separable import moments, told_apart

QUERIES = 10  # samples whose nearest training faces are shown
REFERENCE_SIDE = 128  # pixels of the real faces that every generator is compared with

Row = dict[str, Any]


def _spread(values: np.ndarray) -> Row:
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values))}


def halves(total: int, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of `num` indices below `total`."""
    check_range("--num", num, 1, total // 2)
    order = np.random.default_rng(seed).permutation(total)
    return order[:num], order[num : 2 * num]


class Real(NamedTuple):
    """What is known of real faces of one size."""

    halves: tuple[np.ndarray, np.ndarray]  # SqueezeNet features of two disjoint sets
    # network -> tap -> as `separable.moments` of the first set
    moments: dict[str, dict[str, np.ndarray]]


def real_faces(
    data: Path, side: int, num: int, eye: Weights, seed: int, tellers: Mapping[str, Weights]
) -> Real:
    """Two disjoint halves of the training faces, `num` each, at `side` pixels."""
    real = photos.load_faces(data, side)[: -photos.HELD_OUT]
    first, second = (real[rows] for rows in halves(len(real), num, seed))
    both = squeezenet.pooled_features(eye, first), squeezenet.pooled_features(eye, second)
    shown = first.astype(np.float32) / 255
    return Real(both, {name: moments(teller, shown) for name, teller in tellers.items()})


def frechet(samples: np.ndarray, side: int, real: tuple[np.ndarray, np.ndarray]) -> Row:
    """Distances at equal numbers: samples to one half of the real faces, the halves to each other.

    Samples of fewer pixels than `side` are only scaled up, so what they lack in detail counts.

    Args:
      samples: [n, 512] features.
      real: [n, 512] features of each half.
    """
    return {
        "side": side,
        "num": len(samples),
        "samples_to_real": frechet_distance(samples, real[0]),
        "real_to_real": frechet_distance(*real),
    }


def told_apart_by(
    tellers: Mapping[str, Weights], made: np.ndarray, real: Real
) -> dict[str, dict[str, float]]:
    """Network -> tap -> how often made pictures and as many faces are told apart; a half is chance."""
    result = {}
    for name, teller in tellers.items():
        theirs = moments(teller, made)
        result[name] = {tap: told_apart(real.moments[name][tap], theirs[tap]) for tap in theirs}
    return result


def nearest(samples: np.ndarray, faces: np.ndarray, eye: Weights, args: Any, stem: str) -> Row:
    """Nearest training faces of samples and of held-out faces, in pixels and in features.

    The picture has one row for each of the four: queries above, what was found below.
    """
    training = faces[: -photos.HELD_OUT][: args.training_faces or None]
    held_out = faces[-photos.HELD_OUT :][:QUERIES]
    queries = {"samples": (samples[:QUERIES] * 255).astype(np.uint8), "held_out": held_out}
    spaces = {
        "pixels": neighbours.small_pixels,
        "features": lambda images: squeezenet.pooled_features(eye, images),
    }
    result: Row = {"training_faces": len(training)}
    rows: list[np.ndarray] = []
    for space, embed in spaces.items():
        embedded = embed(training)
        for name, query in queries.items():
            found = neighbours.nearest(query, embedded, embed)
            each = [round(float(value), 5) for value in found.distance]
            result[f"{space}_{name}"] = {**_spread(found.distance), "each": each}
            rows += [query, neighbours.pictures(found, training)]
    sheets.save(args.out / f"{stem}-nearest.png", np.concatenate(rows), columns=QUERIES)
    return result


def inversions(
    generator: Generator, weights: Weights, faces: np.ndarray, args: Any, stem: str
) -> Row:
    """PSNR and SSIM over held-out faces for every number of codes; a picture of the first ten."""
    phi = load_weights(args.features)
    network = backbone(phi.network, phi.config)
    held_out = faces[-photos.HELD_OUT :]
    chosen = held_out[np.linspace(0, len(held_out) - 1, args.inversions).round().astype(int)]
    result: Row = {"faces": len(chosen), "steps": args.steps, "layer": args.layer}
    shown = min(len(chosen), 10)
    rows = [chosen[:shown].astype(np.float32) / 255]
    for num_codes in args.codes:
        done = invert(
            chosen,
            generator,
            weights,
            phi,
            network,
            num_codes=num_codes,
            layer=args.layer,
            steps=args.steps,
            seed=args.seed,
        )
        result[f"codes_{num_codes}"] = {"psnr": _spread(done.psnr), "ssim": _spread(done.ssim)}
        rows.append(done.images[:shown])
    sheets.save(args.out / f"{stem}-inversions.png", np.concatenate(rows), columns=shown)
    return result


def evaluate(
    weights: Weights,
    path: Path,
    real: dict[int, Real],
    eye: Weights,
    tellers: Mapping[str, Weights],
    args: Any,
) -> Row:
    """Everything about one weight file; pictures are named after it.

    Args:
      real: by the side in pixels.
      eye: the network of the Frechet distance and of neighbours.
      tellers: networks that tell samples from faces, by name.
    """
    generator = build(weights.network, weights.config)
    result: Row = {
        "file": path.name,
        "sha256": weights.sha256,
        "config": weights.config,
        "made": weights.metadata,
    }
    sheets.save_samples(args.out / f"{path.stem}-samples.png", generator, weights.params, seed=7)
    faces = photos.load_faces(args.data, generator.resolution)
    if args.num:
        made = sheets.samples(generator, weights.params, seed=args.seed + 1, num=args.num)
        embedded = squeezenet.pooled_features(eye, made)
        sides = sorted({generator.resolution, args.reference_side})
        result["frechet"] = [frechet(embedded, side, real[side].halves) for side in sides]
        result["told_apart"] = told_apart_by(tellers, made, real[generator.resolution])
    if args.neighbours:
        made = sheets.samples(generator, weights.params, seed=args.seed + 1, num=QUERIES)
        result["nearest"] = nearest(made, faces, eye, args, path.stem)
    if args.inversions:
        result["inversions"] = inversions(generator, weights, faces, args, path.stem)
    return result


def table(results: list[Row]) -> str:
    """One line for each measured number, one column for each file."""
    columns = [dict(_numbers(result)) for result in results]
    names = list(dict.fromkeys(name for column in columns for name in column))
    width = max(map(len, ["", *names]))
    head = " ".join(f"{result['file']:>28}" for result in results)
    lines = [f"{'':{width}} {head}"]
    for name in names:
        cells = " ".join(f"{column.get(name, '-'):>28}" for column in columns)
        lines.append(f"{name:{width}} {cells}")
    return "\n".join(lines)


def _numbers(result: Row) -> list[tuple[str, str]]:
    def spread(cell: Row) -> str:
        return f"{cell['mean']:.3f} +- {cell['deviation']:.3f}"

    rows = []
    for cell in result.get("frechet", []):
        text = f"{cell['samples_to_real']:.2f} (halves {cell['real_to_real']:.2f})"
        rows.append((f"Frechet at {cell['side']} px", text))
    for name, taps in result.get("told_apart", {}).items():
        rows += [(f"told apart, {name} {tap}", f"{share:.3f}") for tap, share in taps.items()]
    for name, cell in result.get("nearest", {}).items():
        if isinstance(cell, dict):
            rows.append((f"nearest, {name}", spread(cell)))
    for name, cell in result.get("inversions", {}).items():
        if isinstance(cell, dict):
            rows += [(f"{name} PSNR", spread(cell["psnr"])), (f"{name} SSIM", spread(cell["ssim"]))]
    return rows


def main(args: argparse.Namespace) -> list[Row]:
    """Evaluates every file, writing what is known after each."""
    if len({path.stem for path in args.generators}) < len(args.generators):
        raise InputError("two generators have the same file name; pictures are named after it.")
    args.out.mkdir(parents=True, exist_ok=True)
    clock, files = cli.Clock(), [load_weights(path) for path in args.generators]
    sides = {build(file.network, file.config).resolution for file in files}
    tellers = {path.name: load_weights(path) for path in (args.features, *args.told_by)}
    if len(tellers) <= len(args.told_by):
        raise InputError(
            "--told-by and --features: two files have the same name, which numbers go by; accepted: "
            "files of different names."
        )
    eye, real, results = squeezenet.read(args.data), {}, []
    for side in {args.reference_side, *sides} if args.num else ():
        own = tellers if side in sides else {}
        real[side] = real_faces(args.data, side, args.num, eye, args.seed, own)
    for weights, path in zip(files, args.generators, strict=True):
        results.append(evaluate(weights, path, real, eye, tellers, args))
        run = {
            "seed": args.seed,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "seconds": round(clock.seconds()),
            "generators": results,
        }
        (args.out / "evaluation.json").write_text(json.dumps(run, indent=1) + "\n", "utf-8")
    print(table(results))
    return results


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generators", type=Path, nargs="+", help="weight files")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces and SqueezeNet")
    parser.add_argument("--features", type=Path, required=True, help="weights inversion looks with")
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and pictures")
    parser.add_argument(
        "--told-by",
        type=Path,
        nargs="+",
        default=[],
        help="weight files of feature networks that tell samples from faces, beside --features",
    )
    parser.add_argument(
        "--num", type=int, default=2000, help="samples for Frechet and to be told apart; 0: skip"
    )
    parser.add_argument("--reference-side", type=int, default=REFERENCE_SIDE, help="of real faces")
    parser.add_argument("--neighbours", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--training-faces", type=int, default=0, help="searched; 0: all")
    parser.add_argument("--inversions", type=int, default=50, help="held-out faces; 0: skip")
    parser.add_argument("--steps", type=int, default=150, help="of each inversion")
    parser.add_argument("--layer", type=int, default=6, help="composing layer")
    parser.add_argument("--codes", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(lambda: main(parse()))
