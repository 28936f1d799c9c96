"""Rows to what is read: tables in Markdown, numbers in JSON, sheets of pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import circumstances
from benchmarks.quality import pairs, selections, sheets, tables, variants
from benchmarks.quality.runs import PICTURES, Row
from benchmarks.quality.tables import Table
from oeft_jax.config import preset
from oeft_jax.image import read_image
from oeft_jax.report import config_dict
from training.intervals import Estimate, mean

BASE = ("mGANprior", "equal compute")  # of the inversions
PRIMARY = "SqueezeNet"  # nothing was tuned on it or taught by it


def write(out: Path, rows: Sequence[Row], *, device: str) -> str:
    """OUT/quality.json and OUT/quality.md; returns the latter's text."""
    made = all_tables(rows)
    entries = {
        **circumstances(device),
        "settings": config_dict(preset("bundled")),
        "tables": {title: _plain(table) for title, table in made.items()},
    }
    (out / "quality.json").write_text(json.dumps(entries, indent=1) + "\n", "utf-8")
    text = "\n".join(tables.markdown(title, table) for title, table in made.items() if table)
    (out / "quality.md").write_text(text, "utf-8")
    return text


def all_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Every table by its title."""
    tuned = [row for row in rows if row["job"]["section"] == "tuning"]
    made: dict[str, Table] = {}
    judges = list(dict.fromkeys(row["judge"] for row in tuned if "judge" in row))
    for half in pairs.HALVES:
        ours = [row for row in tuned if row["job"]["half"] == half]
        where = f"the half to {half}"
        for picture in PICTURES:
            for one in judges:
                found = tables.cells(ours, one, picture)
                title = f"{picture} warp over the same without tuning, judged in {one}, {where}"
                made[title] = tables.ratios(found)
                if (variants.APART, 0) in found:
                    title = f"{picture} warp over {variants.APART} without tuning, {one}, {where}"
                    made[title] = tables.ratios(found, (variants.APART, 0))
        found = tables.cells(ours, PRIMARY, PICTURES[-1])
        made[f"Matching, gain over no tuning, {where}"] = tables.gains(found)
        made[f"All as measured, {where}"] = tables.means(found)
        last = _last_of_all(found)
        if last and len({name for name, _ in found}) > 1:
            base = (variants.DEFAULT, last)
            same = {key: value for key, value in found.items() if key[1] == last}
            made[f"Finished warp over the default's, {last} steps, {where}"] = tables.ratios(
                same, base
            )
            made[f"Matching, gain over the default, {last} steps, {where}"] = tables.gains(
                same, base
            )
    beside = _beside(rows, tuned)
    for one in dict.fromkeys(row["judge"] for row in beside):
        made[f"Methods, judged in {one}"] = tables.methods(beside, one)
    made["Inversion"] = inversions_table([r for r in rows if r["job"]["section"] == "inversion"])
    chosen = [row for row in rows if row["job"]["section"] == "selection"]
    for measure in dict.fromkeys(row["measure"] for row in chosen):
        standings = selections.standings(chosen, measure)
        made[f"Choice among hypotheses, judged by {measure}"] = {
            rule: standing._asdict() for rule, standing in standings.items()
        }
    return made


def _last_of_all(found: Iterable[tuple[str, int]]) -> int:
    """The most steps that every variant was looked at after; 0 if there is none."""
    steps: dict[str, set[int]] = {}
    for variant, step in found:
        steps.setdefault(variant, set()).add(step)
    shared = set.intersection(*steps.values()) if variants.DEFAULT in steps else set()
    return max(shared, default=0)


def _beside(rows: Sequence[Row], tuned: Sequence[Row]) -> list[Row]:
    """The comparators' rows, and ours as methods beside them."""
    found = [row for row in rows if row["job"]["section"] == "comparators"]
    known = {row["job"]["id"] for row in found}
    for row in tuned:
        job = row["job"]
        ours = job["half"] == "report" and job["variant"] == variants.DEFAULT
        if ours and job["id"] in known and row.get("picture") == PICTURES[-1]:
            method = f"ours, {row['step']} steps" if row["step"] else "ours, no tuning"
            found.append({**row, "job": {**job, "method": method}})
    return found


def inversions_table(rows: Sequence[Row]) -> Table:
    """Method and budget -> PSNR, SSIM and seconds by origin, and the Frechet distance.

    The gain is picture by picture over mGANprior's setting at equal compute.
    """
    values: dict[str, dict[str, list[float]]] = {}
    base = {
        json.dumps(row["job"]): row["PSNR"]
        for row in rows
        if (row["method"], row["budget"]) == BASE and "PSNR" in row
    }
    for row in rows:
        line = values.setdefault(f"{row['method']}, {row['budget']}", {})
        if "PSNR" in row:
            gain = row["PSNR"] - base[json.dumps(row["job"])]
            line.setdefault(f"PSNR gain, {row['job']['origin']}", []).append(gain)
        for name in ("PSNR", "SSIM", "LPIPS", "seconds", "Frechet distance"):
            if name in row:
                line.setdefault(f"{name}, {row['job']['origin']}", []).append(row[name])
    return {
        line: {name: mean(np.array(x)) for name, x in columns.items()}
        for line, columns in values.items()
    }


def picture_sheets(out: Path, data: Path, *, half: str, size: int, names: Sequence[str]) -> None:
    """OUT/sheet-K.png: every pair of a half with the named pictures that were kept of it."""
    rows = []
    fit = variants.settings(variants.DEFAULT, size=size, steps=0).correspondence.fit
    for entry in pairs.half(pairs.listed(data), half):
        files = [(name, out / "pictures" / entry["id"] / f"{name}.png") for name in names]
        if all(path.is_file() for _, path in files):
            pair = pairs.read_pair(data, entry, size=size, fit=fit)
            rows.append((pair, [(name, read_image(path)) for name, path in files]))
    sheets.sheets(rows, out, "sheet")


def _plain(table: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    return {
        line: {
            name: [round(x, 5) for x in number[:3]] + [number.pairs] for name, number in row.items()
        }
        for line, row in table.items()
    }
