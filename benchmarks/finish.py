"""The finished picture against the patch warp it replaces, at the source's size.

`python -m benchmarks.finish --data DATA --out OUT` tunes pairs of a data folder (DATA/pairs.json, a
list of id, content and exemplar) and makes the picture at every structure asked for. Beside it
stand the voted warp of 4 x 4-pixel cells and the soft warp (Eq. 6), both scaled up bicubically.
Written are OUT/finish.json and OUT/finish-ID.png. Structure is measured against the source,
appearance against the target, in SqueezeNet's features, on which nothing was tuned; both photos
and every picture have the size of the result, their own proportions and as many pixels.
"""

import argparse
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import oeft_jax
from benchmarks.harness import circumstances, peak_mib, reset_peak
from benchmarks.quality.judge import Judge, frechet, gram, squeezenet
from oeft_jax import metrics, out_folder, pipeline, tuning
from oeft_jax.checkpoint import Store
from oeft_jax.config import Config, OutputConfig
from oeft_jax.field import coarse_to_fine
from oeft_jax.finish import led_by
from oeft_jax.image import resize, to_uint8, with_longer_side
from oeft_jax.picture import Picture, make_picture
from oeft_jax.report import device_name

PAIRS = (
    "000-face-photo",
    "012-photo-style",
    "027-analogy-photo2photo",
    "036-animal-cat2cat",
    "026-analogy-style2photo",
    "005-scene",
)
SOFT, OLD = "soft warp", "voted 4 x 4 warp"
LARGEST = 48  # cells on the longer side in the self-similarity
TILE, GAP, CAPTION = 448, 8, 22


def tuned(photos: out_folder.Photos, config: Config, parts: pipeline.Parts) -> tuple[Any, Any]:
    """(the pair's squares, the warp after fine-tuning)."""
    one = pipeline.begin(*photos.images, config, parts, Store(None))
    programs = pipeline.programs_of(config, parts)
    key = pipeline.tuning_key(config)
    return one.pair, tuning.tune(key, one, programs, lambda number, row: None).warp


def with_output(config: Config, **options: Any) -> Config:
    """The config with other options of its finished picture."""
    return dataclasses.replace(config, output=dataclasses.replace(config.output, **options))


def pictures(
    made: Picture, warp: Any, structures: Sequence[float]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """(name -> picture at the result's size, name -> seconds that the knob took)."""
    size = made.source.shape[:2]
    old = {
        SOFT: resize(np.asarray(warp.soft)[0], size),
        OLD: resize(np.asarray(warp.voted)[0], size),
    }
    led, seconds = {}, {}
    for structure in structures:
        name = f"finished, structure {structure:g}"
        began = time.perf_counter()
        led[name] = led_by(made.source, made.warped, structure)
        seconds[name] = time.perf_counter() - began
    return {**old, **led}, seconds


def measures(picture: np.ndarray, made: Picture, judge: Judge, grid: int) -> dict[str, float]:
    """Every measure; edge agreement is better when larger, blockiness is 1 without blocks."""
    ours, source, target = (
        judge.features(jnp.asarray(image)[None]) for image in (picture, made.source, made.target)
    )
    image = jnp.asarray(picture)
    layouts = (_pooled(features[judge.structure][0]) for features in (ours, source))
    return {
        "edge agreement": float(metrics.edge_agreement(image, jnp.asarray(made.source))),
        "self-similarity distance": float(metrics.self_similarity_distance(*layouts)),
        "Gram distance": gram(ours, target, judge.style),
        "Frechet distance": frechet(ours[judge.statistics], target[judge.statistics]),
        "blockiness": blockiness(picture, grid),
    }


def blockiness(picture: np.ndarray, grid: int) -> float:
    """At the borders of the tuned cells. A JPEG's own blocks count where they coincide."""
    cell = (picture.shape[0] / grid, picture.shape[1] / grid)
    return float(metrics.blockiness(jnp.asarray(picture), cell))


def _pooled(features: Any) -> Any:
    """[h, w, c] as block means, at most LARGEST on a side; what is left over is cut off."""
    h, w, c = features.shape
    side = -(-max(h, w) // LARGEST)
    blocks = features[: h // side * side, : w // side * side]
    return blocks.reshape(h // side, side, w // side, side, c).mean((1, 3))


def entry(
    name: str,
    photos: out_folder.Photos,
    config: Config,
    parts: pipeline.Parts,
    judge: Judge,
    structures: Sequence[float],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(numbers of a pair, its pictures)."""
    pair, warp = tuned(photos, config, parts)
    made = make_picture(photos.images, pair, warp, with_output(config, structure=0.0))
    shown, knob = pictures(made, warp, structures)
    grid = config.correspondence.grid
    best = np.asarray(warp.best).reshape(grid, grid)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        seconds, peak = alone.submit(cost, made.source, made.target, best).result()
    found = {
        "id": name,
        "size": list(made.source.shape[:2]),
        "target_size": list(made.target.shape[:2]),
        "seconds": round(seconds, 2),
        "knob_seconds": round(max(knob.values()), 2),
        "peak_mib": round(peak),
        "blockiness_of_source": blockiness(made.source, grid),
        "measures": {key: measures(image, made, judge, grid) for key, image in shown.items()},
    }
    return found, {"source": made.source, "target": made.target, **shown}


def cost(source: np.ndarray, target: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """(seconds, MiB at the peak) that the picture takes; for a process that has done nothing else."""
    before = reset_peak()
    began = time.perf_counter()
    _, picture = coarse_to_fine(source, target, best)
    led_by(source, picture, 0.5)
    return time.perf_counter() - began, peak_mib() - before


def means(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric means over the pairs: picture -> measure -> mean."""
    first = entries[0]["measures"]
    return {
        name: {
            measure: float(np.exp(np.mean([np.log(e["measures"][name][measure]) for e in entries])))
            for measure in row
        }
        for name, row in first.items()
    }


def sheet(shown: dict[str, np.ndarray]) -> Image.Image:
    """The pictures of a pair with their names, four in a row."""
    font = ImageFont.load_default(14)
    tiles = [Image.fromarray(to_uint8(with_longer_side(image, TILE))) for image in shown.values()]
    height = max(tile.height for tile in tiles) + CAPTION + GAP
    rows = -(-len(tiles) // 4)
    page = Image.new("RGB", (GAP + 4 * (TILE + GAP), GAP + rows * height), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, tile) in enumerate(zip(shown, tiles, strict=True)):
        x, y = GAP + number % 4 * (TILE + GAP), GAP + number // 4 * height
        page.paste(tile, (x, y))
        draw.text((x, y + tile.height + 2), name, "black", font)
    return page


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="ids, comma-separated")
    parser.add_argument("--steps", type=int, default=20, help="of fine-tuning")
    parser.add_argument("--size", default=OutputConfig().size)
    parser.add_argument("--structures", default="0,0.25,0.5,0.75,1")
    args = parser.parse_args(arguments)
    config = oeft_jax.Config()
    stage = dataclasses.replace(config.correspondence, steps=args.steps)
    refine = dataclasses.replace(config.refine, mode="never")
    config = dataclasses.replace(config, correspondence=stage, refine=refine)
    config = with_output(config, size=args.size)
    parts, judge = oeft_jax.load_parts(config), squeezenet(args.data)
    known = {pair["id"]: pair for pair in json.loads((args.data / "pairs.json").read_text())}
    structures = [float(text) for text in args.structures.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for name in args.pairs.split(","):
        source, target = (args.data / known[name][key] for key in ("content", "exemplar"))
        photos = out_folder.read_photos(source, target, config)
        found, shown = entry(name, photos, config, parts, judge, structures)
        entries.append(found)
        sheet(shown).save(args.out / f"finish-{name}.png")
        summary = {
            **circumstances(device_name()),
            "steps": args.steps,
            "size": args.size,
            "means": means(entries),
            "pairs": entries,
        }
        (args.out / "finish.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(name, found["seconds"], "s", found["peak_mib"], "MiB", flush=True)


if __name__ == "__main__":
    main()
