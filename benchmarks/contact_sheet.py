"""Translates pairs of a data folder and puts them side by side.

`python -m benchmarks.contact_sheet --data DATA --out OUT` reads DATA/pairs.json (a list of id,
content and exemplar), writes OUT/contact_sheet.png, OUT/contact_sheet.json (times, scores, verdicts)
and each pair's overview.
"""

import argparse
import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import oeft_jax
from benchmarks.harness import commit
from oeft_jax import out_folder, report
from oeft_jax.image import to_uint8

# One or more of each kind: faces, animals, scenes, photos, paintings, a drawing.
PAIRS = (
    "000-face-photo",
    "045-face-photo",
    "038-animal-cat2dog",
    "005-scene",
    "012-photo-style",
    "027-analogy-photo2photo",
    "032-painting",
    "026-analogy-style2photo",
)
TILE, GAP, CAPTION = 224, 10, 36


def rows_to_sheet(rows: list[tuple[str, oeft_jax.Translation]]) -> Image.Image:
    """One row a pair: source, target, untuned warp, tuned warp, chosen hypothesis, result."""
    titles = ("source", "target", "untuned warp", "finished warp", "hypothesis", "translation")
    width, height = GAP + len(titles) * (TILE + GAP), len(rows) * (TILE + CAPTION)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for r, (name, result) in enumerate(rows):
        blank = np.ones_like(result.image)
        chosen = result.hypotheses[result.choice.chosen].image if result.choice else blank
        untuned = result.history[0][1]
        images = (result.source, result.target, untuned, result.warped, chosen, result.image)
        for c, (title, image) in enumerate(zip(titles, images, strict=True)):
            x, y = GAP + c * (TILE + GAP), r * (TILE + CAPTION)
            whole = Image.fromarray(to_uint8(image))
            sheet.paste(ImageOps.contain(whole, (TILE, TILE)), (x, y))
            draw.text((x, y + TILE + 2), f"{name}: {title}" if c == 0 else title, "black", font)
    return sheet


def entry(pair: dict[str, Any], result: oeft_jax.Translation) -> dict[str, Any]:
    """Numbers of one pair."""
    return {
        "id": pair["id"],
        "seconds": {name: round(value, 1) for name, value in result.seconds.items()},
        "first_losses": result.losses[0] if result.losses else {},
        "final_losses": result.losses[-1] if result.losses else {},
        "psnr_db": [round(one.psnr, 2) for one in result.hypotheses],
        "ssim": [round(one.ssim, 3) for one in result.hypotheses],
        "verdict": result.verdict,
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="ids, comma-separated")
    parser.add_argument("--preset", default="bundled")
    args = parser.parse_args(arguments)
    config = oeft_jax.preset(args.preset)
    parts = oeft_jax.load_parts(config)
    known = {pair["id"]: pair for pair in json.loads((args.data / "pairs.json").read_text())}
    args.out.mkdir(parents=True, exist_ok=True)
    rows, entries = [], []
    for name in args.pairs.split(","):
        pair = known[name]
        source, target = (args.data / pair[role] for role in ("content", "exemplar"))
        photos = out_folder.read_photos(source, target, config)
        result = oeft_jax.translate(*photos.images, config, parts=parts)
        rows.append((name, result))
        entries.append(entry(pair, result))
        report.overview(result).save(args.out / f"{name}.png")
        rows_to_sheet(rows).save(args.out / "contact_sheet.png")
        summary = {
            "commit": commit(),
            "device": report.device_name(),
            "versions": {"jax": jax.__version__, "python": platform.python_version()},
            "weights": [weights.sha256 for weights in parts.weights],
            "config": report.config_dict(dataclasses.replace(config)),
            "pairs": entries,
        }
        text = json.dumps(summary, indent=1) + "\n"
        (args.out / "contact_sheet.json").write_text(text)
        print(name, entries[-1]["seconds"], result.verdict, flush=True)


if __name__ == "__main__":
    main()
