"""The documentation is true: its programs run, and what it names exists."""

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from oeft_jax import PRESETS

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w/]+\.py): ([\w.]+)`")  # `file.py: name`, the file inside oeft_jax
TABLE_ROW = re.compile(r"^\| `(\w+)\.(\w+)` \| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)


def sections(name):
    """Heading -> its Python, the blocks of one section joined."""
    parts = HEADING.split((DOCS / name).read_text("utf-8"))[1:]
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    return {title: "\n".join(PYTHON.findall(text)) for title, text in texts.items()}


EXTENDING = sections("extending.md")
METHOD = (DOCS / "method.md").read_text("utf-8")


def test_every_section_of_extending_has_a_program():
    assert len(EXTENDING) == 8
    assert all(EXTENDING.values())


@pytest.mark.parametrize("title", [title for title in EXTENDING if title != "Preamble"])
def test_extending_program_runs(title):
    names = {"__name__": "extending"}
    for part in ("Preamble", title):
        exec(compile(EXTENDING[part], f"extending.md: {part}", "exec"), names)
    if "result" in names:
        image = names["result"].image
        assert image.ndim == 3
        assert np.all(np.isfinite(image))
        assert image.min() >= 0
        assert image.max() <= 1
    if "warps" in names:
        assert np.all(np.isfinite(names["warps"]))


def test_method_names_what_exists():
    named = NAMED.findall(METHOD)
    assert len(named) > 30
    for file, path in named:
        found = importlib.import_module(f"oeft_jax.{file.removesuffix('.py').replace('/', '.')}")
        for part in path.split("."):
            assert hasattr(found, part), f"{file}: {path}"
            found = getattr(found, part)


def test_method_maps_every_equation_section_and_figure():
    table = METHOD.split("## ")[1]
    for number in range(1, 13):
        assert re.search(rf"^\| Eq\. {number} ", table, re.MULTILINE), number
    for place in (
        "Sec. 3.1",
        "Sec. 3.2",
        "Sec. 3.3",
        "Sec. 4.1",
        *(f"Fig. {n}" for n in (3, 5, 6, 7)),
    ):
        assert re.search(rf"^\| {re.escape(place)} ", table, re.MULTILINE), place


def test_method_lists_where_the_presets_differ():
    flat = {
        name: {
            (section.name, item.name): getattr(getattr(config, section.name), item.name)
            for section in dataclasses.fields(config)
            if dataclasses.is_dataclass(getattr(config, section.name))
            for item in dataclasses.fields(getattr(config, section.name))
        }
        for name, config in PRESETS.items()
    }
    bundled, paper = flat["bundled"], flat["paper"]
    expected = {
        key: (_shown(bundled[key]), _shown(paper[key]))
        for key in bundled
        if bundled[key] != paper[key]
    }
    rows = [f"| `{s}.{n}` | `{a}` | `{b}` |" for (s, n), (a, b) in expected.items()]
    listed = {(s, n): (a, b) for s, n, a, b in TABLE_ROW.findall(METHOD)}
    assert listed == expected, "the table should be:\n" + "\n".join(rows)


def _shown(value):
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
