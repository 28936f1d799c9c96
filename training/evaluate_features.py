"""Measures a feature network: `python -m training.evaluate_features`.

Beside it stand the real VGG-19 (to relu3_1), the distilled VGG-19 that taught the deeper taps, the
same network with random weights, and no matching at all (the same position). Measured: agreement
with the teachers on photos that nothing was trained on, matching against ground truth, time.
Writes `features.json` and prints one table.

Taps of different widths are compared through a linear map and a ReLU, fitted on one half of the
photos and tested on the other and on SPair's photos of objects, and by linear CKA, which
needs no map. The heads of the distillation are not used: they are not exported. What the real
network says at a border depends on how it pads, so each is compared with it padded as itself: ours by
zeros, as VGG-19 was trained, the distilled one by reflection.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import check_range
from oeft_jax._types import Features, Params
from oeft_jax.models.backbone import backbone
from oeft_jax.weights import Weights, load_weights
from training import cli, ground_truth, intervals, teachers
from training.agreement import correlation, fit_through_relu, linear_cka
from training.ground_truth import Match
from training.matching import JOINED, best_cells, carried, match_points, share_correct

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STAGE_ONE = "stage 1"
REAL, REFLECTED, STAND_IN = "real VGG-19", "real VGG-19, padded by reflection", "stand-in"
SAME_PLACE, AHEAD = "same position", "ours ahead of the stand-in"
AGREEMENTS = ("agreement", "agreement on objects")
POSITIONS = 256  # sampled from every photo and tap for the agreement
THRESHOLDS = {"PCK@0.1": 0.1, "PCK@0.03": 0.03}

Row = dict[str, Any]
Rows = dict[str, dict[str, list[np.ndarray]]]  # network -> tap -> a picture's rows
Hits = dict[str, dict[str, list[np.ndarray]]]  # way of matching -> threshold -> a pair's points


class Contender(NamedTuple):
    """A feature network with its weights."""

    features: Callable[[Params, jax.Array], Features]  # images [n, s, s, 3] in [0, 1]
    params: Params
    taps: tuple[str, ...]  # that it reaches


def contenders(weights: Weights, data: Path, seed: int) -> dict[str, Contender]:
    """The network in question and what it is compared with, by name."""
    network = backbone(weights.network, weights.config)
    vgg = jax.tree.map(jnp.float32, teachers.read_real(data))
    distilled = jax.tree.map(jnp.float32, teachers.read_distilled(data))

    def ours(params: Params, images: jax.Array) -> Features:
        return network.apply(params, images, TAPS)

    random = network.init(jax.random.fold_in(jax.random.key(seed), 1), TAPS)
    return {
        "ours": Contender(ours, weights.params, TAPS),
        REAL: Contender(teachers.vgg_features, vgg, TAPS[:3]),
        STAND_IN: Contender(teachers.distilled_features, distilled, TAPS),
        "random": Contender(ours, random, TAPS),
    }


def compiled(contender: Contender) -> Callable[[np.ndarray], Features]:
    """image [s, s, 3] -> tap -> [1, h, w, c]."""
    features = jax.jit(contender.features)
    return lambda image: features(contender.params, jnp.asarray(image)[None])


def sampled(
    features: Callable[[np.ndarray], Features],
    images: list[np.ndarray],
    seed: int,
    *,
    first: int = 0,
) -> dict[str, list[np.ndarray]]:
    """Rows of every tap at random positions, the same for every network. tap -> a row set each.

    Args:
      first: number of the first image, which with the seed draws the positions.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for number, image in enumerate(images, first):
        for tap, value in features(image).items():
            cells = np.asarray(value).reshape(-1, value.shape[-1])
            rng = np.random.default_rng((seed, number))
            rows.setdefault(tap, []).append(cells[rng.integers(len(cells), size=POSITIONS)])
    return rows


def agreement(fitted: Rows, tested: dict[str, Rows]) -> dict[str, Row]:
    """kind -> tap -> network -> agreement with the tap's teacher on `tested`, of maps fitted on `fitted`.

    The real network is the teacher of the taps that it reaches; the stand-in's is padded as itself.
    """
    result: dict[str, Row] = {kind: {} for kind in tested}
    for tap in TAPS:
        teacher = REAL if tap in fitted[REAL] else STAND_IN
        for cell in result.values():
            cell[tap] = {"teacher": teacher}
        for name in ("ours", STAND_IN, "random"):
            if name == teacher:
                continue
            own = REFLECTED if (name, teacher) == (STAND_IN, REAL) else teacher
            x, y = (np.concatenate(fitted[one][tap]) for one in (name, own))
            kernel, bias = fit_through_relu(x, y)
            for kind, rows in tested.items():
                x, y = (np.concatenate(rows[one][tap]) for one in (name, own))
                said = np.maximum(x @ kernel + bias, 0)
                found = {"correlation": correlation(said, y), "cka": linear_cka(x, y)}
                result[kind][tap][name] = found
    return result


def agreements(
    everyone: dict[str, Contender],
    fitted: list[np.ndarray],
    tested: dict[str, list[np.ndarray]],
    seed: int,
) -> dict[str, Row]:
    """`agreement` on the photos of each kind, of maps fitted on the same ones."""
    vgg, taps = everyone[REAL].params, everyone[REAL].taps
    reflected = Contender(partial(teachers.vgg_features, reflected=True), vgg, taps)
    programs = {name: compiled(one) for name, one in {**everyone, REFLECTED: reflected}.items()}

    def rows(images: list[np.ndarray], first: int) -> Rows:
        return {name: sampled(one, images, seed, first=first) for name, one in programs.items()}

    kinds = {kind: rows(images, len(fitted)) for kind, images in tested.items()}
    return agreement(rows(fitted, 0), kinds)


def correct(one: Contender, matches: list[Match], *, size: int, grid: int) -> Hits:
    """Which points of each pair are right: by every tap, by "joined", the package's hypercolumn, and
    by "stage 1", which matches by it, the common layout and the neighbours' say.
    """
    features = compiled(one)
    sets: dict[str, tuple[str, ...]] = {tap: (tap,) for tap in one.taps}
    has_all = set(JOINED) <= set(one.taps)
    if has_all:
        sets["joined"] = JOINED
    found = jax.jit(match_points, static_argnames=("taps", "size", "grid"))
    best = jax.jit(best_cells, static_argnames="grid")
    hits: Hits = {}
    for match in matches:
        source, target = features(match.source), features(match.target)
        padded = jnp.asarray(np.resize(match.source_points, (256, 2)))  # one shape, so one program
        ends = {
            name: found(source, target, padded, taps=taps, size=size, grid=grid)
            for name, taps in sets.items()
        }
        if has_all:
            cells = np.asarray(best(source, target, grid=grid))
            ends[STAGE_ONE] = carried(cells, match.source_points, size=size, grid=grid)
        for name, points in ends.items():
            chosen = np.asarray(points)[: len(match.source_points)]
            for threshold, share in THRESHOLDS.items():
                hit = share_correct(chosen, match, share)
                hits.setdefault(name, {}).setdefault(threshold, []).append(hit)
    return hits


def shares(hits: Hits) -> dict[str, dict[str, float]]:
    """Way of matching -> threshold -> share of points."""
    return {
        name: {t: float(np.mean(np.concatenate(hit))) for t, hit in cell.items()}
        for name, cell in hits.items()
    }


def ahead(
    ours: Hits, theirs: Hits, seed: int, *, alike: int = 1
) -> dict[str, dict[str, list[float]]]:
    """How far ahead, in share of a pair's points: [mean, low, high], 95 % by drawing pairs again.

    Args:
      alike: how many neighbours are of one pair.
    """
    result: dict[str, dict[str, list[float]]] = {}
    for name, cell in ours.items():
        result[name] = {}
        for threshold, hit in cell.items():
            gaps = [a.mean() - b.mean() for a, b in zip(hit, theirs[name][threshold], strict=True)]
            found = intervals.mean(np.array(gaps).reshape(-1, alike).mean(axis=1), seed=seed)
            result[name][threshold] = [found.value, found.low, found.high]
    return result


def same_place(matches: list[Match]) -> dict[str, float]:
    """threshold -> share of points that are right without moving."""
    return {
        threshold: float(
            np.mean(np.concatenate([share_correct(m.source_points, m, share) for m in matches]))
        )
        for threshold, share in THRESHOLDS.items()
    }


def correspondence(
    everyone: dict[str, Contender], spair: list[Match], args: argparse.Namespace
) -> Row:
    """kind of ground truth -> network -> way of matching -> threshold -> share of points that are right.

    Args:
      spair: both ways.
    """
    several = 2 * (1 + args.draws)  # of each pair, both ways
    few = {
        "SPair": spair,
        "WILLOW": ground_truth.willow(args.data, args.size),
    }
    kinds = {
        "faces": (ground_truth.faces(args.data, args.faces, args.size, args.seed), 1),
        "known warps": (ground_truth.known_warps(args.data, args.warps, args.size, args.seed), 1),
    }
    for kind, found in few.items():
        kinds[kind] = (ground_truth.drawn_again(found, args.draws, args.seed), several)
    result: Row = {}
    for kind, (matches, alike) in kinds.items():
        result[kind] = {
            "pairs": len(matches) // alike,
            "points": sum(len(match.source_points) for match in matches),
            SAME_PLACE: {"-": same_place(matches)},
        }
        hits = {
            name: correct(one, matches, size=args.size, grid=args.grid)
            for name, one in everyone.items()
        }
        result[kind] |= {name: shares(hit) for name, hit in hits.items()}
        if len(matches) > alike:
            result[kind][AHEAD] = ahead(hits["ours"], hits[STAND_IN], args.seed, alike=alike)
    return result


def seconds(function: Callable[..., Any], *args: Any, repeats: int) -> float:
    """Median time of a compiled call, after one to warm up."""
    compiled = jax.jit(function).lower(*args).compile()
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def timing(everyone: dict[str, Contender], *, size: int, repeats: int) -> Row:
    """Seconds of one picture forward, and with the gradient of every weight; by deepest tap."""
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, size, size, 3)), jnp.float32)
    result: Row = {}
    for name in ("ours", REAL, STAND_IN):
        one = everyone[name]

        def size_of(params: Params, images: jax.Array, one: Contender = one) -> jax.Array:
            features = one.features(params, images)
            return sum((jnp.mean(value**2) for value in features.values()), jnp.float32(0))

        result[name] = {
            "to": one.taps[-1],
            "forward": seconds(one.features, one.params, image, repeats=repeats),
            "gradient": seconds(jax.grad(size_of), one.params, image, repeats=repeats),
        }
    return result


def table(result: Row) -> str:
    """The measured numbers, a line each."""
    lines = []
    for kind in AGREEMENTS:
        lines.append(f"{kind} with the teacher (correlation through a linear map and a ReLU, CKA)")
        for tap, cell in result[kind].items():
            parts = [
                f"{name} {value['correlation']:.3f} {value['cka']:.3f}"
                for name, value in cell.items()
                if name != "teacher"
            ]
            lines.append(f"  {tap} against {cell['teacher']}: {', '.join(parts)}")
    for kind, cell in result["correspondence"].items():
        lines.append(f"{kind}: {cell['pairs']} pairs, {cell['points']} points, PCK@0.1 (@0.03)")
        for name in (SAME_PLACE, "ours", REAL, STAND_IN, "random"):
            parts = [f"{t} {v['PCK@0.1']:.3f} ({v['PCK@0.03']:.3f})" for t, v in cell[name].items()]
            lines.append(f"  {name:14} {', '.join(parts)}")
        if AHEAD in cell:
            gaps = (
                f"{t} {{:+.3f}} [{{:+.3f}}, {{:+.3f}}]".format(*v["PCK@0.1"])
                for t, v in cell[AHEAD].items()
            )
            lines.append(f"  {AHEAD}: {', '.join(gaps)}")
    lines.append("time of one picture, forward and with all weight gradients")
    for name, cell in result["seconds"].items():
        lines.append(
            f"  {name:14} to {cell['to']} {cell['forward']:.3f} s {cell['gradient']:.3f} s"
        )
    return "\n".join(lines)


def main(args: argparse.Namespace) -> Row:
    """Measures everything and writes it."""
    check_range("--photos", args.photos, 2)
    check_range("--draws", args.draws, 0)
    weights = load_weights(args.features)
    everyone = contenders(weights, args.data, args.seed)
    images = ground_truth.evaluation_photos(args.data, args.photos, args.size)
    fitted, others = images[: len(images) // 2], images[len(images) // 2 :]
    spair = ground_truth.spair(args.data, args.size, both_ways=True)
    objects = [match.source for match in spair]  # of both ways, so every photo
    result = {
        "file": args.features.name,
        "sha256": weights.sha256,
        "config": weights.config,
        "made": weights.metadata,
        "seed": args.seed,
        "size": args.size,
        "grid": args.grid,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        **agreements(
            everyone, fitted, dict(zip(AGREEMENTS, (others, objects), strict=True)), args.seed
        ),
        "correspondence": correspondence(everyone, spair, args),
        "seconds": timing(everyone, size=args.size, repeats=args.repeats),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "features.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))
    return result


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path, help="weight file of a VGG-shaped network")
    parser.add_argument("--data", type=Path, required=True, help="folder with photos and teachers")
    parser.add_argument("--out", type=Path, required=True, help="folder for features.json")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--grid", type=int, default=64, help="cells on a side")
    parser.add_argument("--photos", type=int, default=40, help="for the agreement with teachers")
    parser.add_argument("--faces", type=int, default=60, help="pairs of faces")
    parser.add_argument("--warps", type=int, default=20, help="photos against their warps")
    parser.add_argument(
        "--draws", type=int, default=5, help="of small warps of each pair of SPair and WILLOW"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each timed call")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(lambda: main(parse()))
