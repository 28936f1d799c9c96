"""What a run leaves behind: pictures, plot, table and manifest, as bytes and as files."""

import csv
import dataclasses
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oeft_jax.config import Config
from oeft_jax.image import resize, to_uint8, with_longer_side, write_png
from oeft_jax.patches import centres, square_cells
from oeft_jax.pipeline import Translation

TILE = 192  # px, longer side of a picture in the overview
GAP = 12
CAPTION = 40
INK, PAPER, MARK = (40, 40, 40), (255, 255, 255), (216, 92, 16)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow", "safetensors")


def overview(result: Translation) -> Image.Image:
    """Source, target, the warp as tuning goes (Fig. 5), the result; then every hypothesis.

    Pictures keep their proportions; those of the working square have the source's.
    """
    shape = result.source.shape
    top = [("source", result.source, False), ("target", result.target, False)]
    top += [
        (f"warp, step {step}", resize(image, shape[:2]), False) for step, image in result.history
    ]
    top += [("confidence of the warp", heat_map(result.confidence, shape), False)]
    top += [("warped, finished", result.warped, not result.uses_generator)]
    top += [("translation", result.image, True)]
    rows = [top]
    if result.choice is not None:
        cells = []
        for index, one in enumerate(result.hypotheses):
            score = result.choice.scores[index]
            text = f"layer {one.composing_layer}, {one.num_codes} codes\n"
            text += f"score {score:.4g}, SSIM {one.ssim:.2f}"
            chosen = index == result.choice.chosen
            cells.append((text + (" *" if chosen else ""), resize(one.image, shape[:2]), chosen))
        rows += [cells[i : i + len(top)] for i in range(0, len(cells), len(top))]
    width = GAP + len(top) * (TILE + GAP)
    foot = 2 * GAP + 16
    sheet = Image.new("RGB", (width, GAP + len(rows) * (TILE + CAPTION + GAP) + foot), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for r, row in enumerate(rows):
        for c, (text, image, marked) in enumerate(row):
            x, y = GAP + c * (TILE + GAP), GAP + r * (TILE + CAPTION + GAP)
            tile = Image.fromarray(to_uint8(with_longer_side(image, TILE)))
            left, top_ = x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2
            sheet.paste(tile, (left, top_))
            if marked:
                right, bottom = left + tile.width + 3, top_ + tile.height + 3
                draw.rectangle((left - 4, top_ - 4, right, bottom), outline=MARK, width=4)
            draw.multiline_text((x, y + TILE + 4), text, fill=INK, font=font, spacing=2)
    draw.text((GAP, sheet.height - foot), result.verdict, fill=INK, font=font)
    return sheet


def heat_map(confidence: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How sure the match of every cell is, dark for 0 and bright for 1.

    Args:
      confidence: [grid, grid] in [0, 1].
      shape: (h, w, ...) of the picture.
    Returns:
      [h, w, 3] float32 in [0, 1], each cell of one colour.
    """
    from matplotlib import colormaps  # slow to import

    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip(shape[:2], confidence.shape, strict=True)
    )
    colours: np.ndarray = colormaps["inferno"](confidence)[..., :3]
    return colours[np.ix_(rows, columns)].astype(np.float32)


def write_field(path: Path, result: Translation) -> None:
    """Writes where every cell of the result comes from, as an .npz file.

    Arrays, all float32 but the sizes: `target` [rows, columns, 2], the (y, x) in pixels of the
    target, as large as `target_size`, that lies under the middle of the cell; `source_y` [rows] and
    `source_x` [columns], that middle in pixels of the source, as large as `source_size`;
    `confidence` [rows, columns] in [0, 1].
    """
    (h, w), grid = result.source.shape[:2], len(result.confidence)
    ys, xs = centres(h), centres(w)
    cells = [square_cells(side, grid) for side in (h, w)]
    arrays = {
        "target": result.field.astype(np.float32),
        "source_y": ys.astype(np.float32),
        "source_x": xs.astype(np.float32),
        "confidence": result.confidence[np.ix_(*cells)].astype(np.float32),
        "source_size": np.array([h, w]),
        "target_size": np.array(result.target.shape[:2]),
    }
    np.savez_compressed(path, allow_pickle=False, **arrays)


def losses_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """One line a step: step, loss, and the weighted terms that sum to it."""
    file = io.StringIO()
    names = list(rows[0]) if rows else ["loss"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", *names])
    writer.writerows([number, *row.values()] for number, row in enumerate(rows, 1))
    return file.getvalue()


def plot_losses(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """A curve for the total and for each weighted term, logarithmic."""
    import matplotlib  # slow to import, and only a run that writes files needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name in rows[0] if rows else ():
        axes.plot(range(1, len(rows) + 1), [row[name] for row in rows], label=name)
    if rows:
        axes.set_yscale("log")
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no fine-tuning steps", ha="center", transform=axes.transAxes)
    axes.set(xlabel="step", ylabel="weighted loss", title="Correspondence fine-tuning (Eq. 11)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def device_name() -> str:
    """Kind and number of the devices in use."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x {len(devices)} ({devices[0].platform})"


def manifest(
    result: Translation,
    config: Config,
    *,
    inputs: Mapping[str, Any],
    weights: Sequence[Any],
    files: Sequence[str],
    command: str,
) -> dict[str, Any]:
    """Everything that reproduces the run, and what came out of it; JSON-ready."""
    choice = result.choice
    hypotheses = [
        {
            "composing_layer": one.composing_layer,
            "num_codes": one.num_codes,
            "reconstruction_loss": one.loss,
            "psnr_db": one.psnr,
            "ssim": one.ssim,
            "score": choice.scores[index],
            "eligible": choice.eligible[index],
            "chosen": index == choice.chosen,
        }
        for index, one in enumerate(result.hypotheses)
        if choice is not None
    ]
    longer = max(result.warped.shape[:2])
    bands = result.uses_generator and result.hypotheses[0].image.shape[0] < longer
    made_of = "warp" if not result.uses_generator else "generator"
    entries = {
        "result": {
            "made_of": "generator (coarse band) and warp (detail band)" if bands else made_of,
            "verdict": result.verdict,
            "size": list(result.image.shape[:2]),
            "hypotheses": hypotheses,
            "final_losses": result.losses[-1] if result.losses else {},
            "mean_confidence": float(result.confidence.mean()),
        },
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "memory_bytes": dict(result.memory),
        "command": command,
        "inputs": dict(inputs),
        "config": config_dict(config),
        "weights": [
            {"origin": w.origin, "network": w.network, "config": w.config, "sha256": w.sha256}
            for w in weights
        ],
        "device": device_name(),
        "versions": {
            "oeft_jax": _own_version(),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "files": list(files),
    }
    return plain(entries)


def _own_version() -> str:
    from oeft_jax import __version__  # the package imports this module's users

    return __version__


def config_dict(config: Config) -> dict[str, Any]:
    """A config as JSON has it."""
    return plain(dataclasses.asdict(config))


def plain(value: Any) -> Any:
    """Tuples as lists, and numbers that JSON does not have ("inf", "nan") as strings."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
    folder: Path, result: Translation, entries: dict[str, Any], *, raw: bool, field: bool
) -> None:
    """Writes every file of a run into an existing folder, the manifest last."""
    write_png(folder / "translation.png", result.image)
    write_png(folder / "warped.png", result.warped)
    write_png(folder / "confidence.png", heat_map(result.confidence, result.warped.shape))
    if raw:
        write_png(folder / "warped_raw.png", result.soft_warped)
    if field:
        write_field(folder / "field.npz", result)
    overview(result).save(folder / "overview.png")
    (folder / "losses.csv").write_text(losses_csv(result.losses), "utf-8")
    plot_losses(result.losses, folder / "losses.png")
    text = json.dumps(entries, indent=2, allow_nan=False) + "\n"
    (folder / "manifest.json").write_text(text, "utf-8")


def file_names(*, raw: bool, field: bool) -> list[str]:
    """What `write_report` writes, the manifest last."""
    names = ["translation.png", "warped.png", "confidence.png", "overview.png"]
    names += ["losses.csv", "losses.png"]
    names += ["warped_raw.png"] * raw + ["field.npz"] * field
    return [*names, "manifest.json"]
