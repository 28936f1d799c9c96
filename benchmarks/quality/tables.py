"""Rows to tables: what tuning changes, against no tuning and against the default."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from training import intervals
from training.intervals import Estimate

Row = Mapping[str, Any]
Cells = dict[str, dict[str, float]]  # measure -> pair -> value

Table = dict[str, dict[str, Estimate]]  # line -> column -> number

PARTS = "face parts"
FACES = (PARTS, "face-photo")
RATIOS = (  # of pictures: better when larger, then smaller
    "edge agreement",
    "self-similarity distance",
    "Gram distance",
    "contextual distance",
    "Frechet distance",
    "token distance",  # of judges that have one vector for the whole image
)
LABELS = ("mean IoU", "label accuracy", "style relevance")
POINTS = ("PCK@0.02", "PCK@0.05", "PCK@0.1")
FLOW = ("cycle error", "cycle within 0.1", "target cells used", "confidence")


def cells(rows: Sequence[Row], judge: str, picture: str) -> dict[tuple[str, int], Cells]:
    """(variant, step) -> measure -> pair -> value, of one judge and picture, and of points."""
    found: dict[tuple[str, int], Cells] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        job = row["job"]
        if (row.get("judge", judge), row.get("picture", picture)) != (judge, picture):
            continue
        at, family, kind = found[job["variant"], row["step"]], job["family"], job.get("kind")
        for name, value in row.items():
            if name in RATIOS and kind != PARTS:  # those faces are there for their labels
                at[name][job["id"]] = value
            elif name in LABELS:
                at[f"{name}, {'face parts' if kind in FACES else kind}"][job["id"]] = value
            elif name in POINTS:
                at[f"{name}, {family}"][job["id"]] = value
            elif name in FLOW:
                at[name][job["id"]] = value
    return {key: dict(value) for key, value in found.items()}


def compare(
    after: Cells, before: Cells, how: Callable[..., Estimate], names: Sequence[str]
) -> dict[str, Estimate]:
    """`how` of every measure, over the pairs that both hold."""
    found = {}
    for name in names:
        ours, theirs = after.get(name, {}), before.get(name, {})
        both = [pair for pair in ours if pair in theirs]
        if both:
            sides = [np.array([side[pair] for pair in both]) for side in (ours, theirs)]
            found[name] = how(*sides)
    return found


def gain(after: np.ndarray, before: np.ndarray) -> Estimate:
    """Mean over pairs of after - before."""
    return intervals.mean(after - before)


def ratios(found: Mapping[tuple[str, int], Cells], base: tuple[str, int] | None = None) -> Table:
    """Picture measures over those without tuning, or over those of `base`: geometric means."""
    return _against(found, base, intervals.ratio, lambda name: name in RATIOS)


def gains(found: Mapping[tuple[str, int], Cells], base: tuple[str, int] | None = None) -> Table:
    """Ground truth and the way back, minus those without tuning, or minus those of `base`."""
    return _against(found, base, gain, lambda name: name not in RATIOS)


def _against(
    found: Mapping[tuple[str, int], Cells],
    base: tuple[str, int] | None,
    how: Callable[..., Estimate],
    wanted: Callable[[str], bool],
) -> Table:
    result = {}
    for (variant, step), after in found.items():
        begin = base or (variant, 0)
        if begin in found and begin != (variant, step):
            names = [name for name in after if wanted(name)]
            result[f"{variant}, {step} steps"] = compare(after, found[begin], how, names)
    return result


def means(found: Mapping[tuple[str, int], Cells]) -> Table:
    """Every measure as it is, mean over pairs."""
    return {
        f"{variant}, {step} steps": {
            name: intervals.mean(np.array(list(values.values()))) for name, values in row.items()
        }
        for (variant, step), row in found.items()
    }


def methods(rows: Sequence[Row], judge: str) -> Table:
    """Comparators, method by method, over the pairs that all of them were run on."""
    found: dict[str, Cells] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["judge"] == judge:
            for name in (*RATIOS, "seconds"):
                if name in row:
                    found[row["job"]["method"]][name][row["job"]["id"]] = row[name]
    shared = set.intersection(*(set(one[RATIOS[0]]) for one in found.values())) if found else set()
    return {
        method: {
            name: intervals.mean(np.array([values[pair] for pair in sorted(shared)]))
            for name, values in one.items()
        }
        for method, one in found.items()
        if shared
    }


def markdown(title: str, rows: Table) -> str:
    """A table: a line for each setting, a column for each measure with its number of pairs."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    pairs = {name: max(row[name].pairs for row in rows.values() if name in row) for name in names}
    lines = [
        f"### {title}",
        "",
        "| | " + " | ".join(f"{name} ({pairs[name]})" for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for setting, row in rows.items():
        lines.append(f"| {setting} | " + " | ".join(str(row.get(n, "-")) for n in names) + " |")
    return "\n".join(lines) + "\n"
