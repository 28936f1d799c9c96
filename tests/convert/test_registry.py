"""What the registry says is complete, consistent, and what docs/weights.md shows."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from oeft_jax import PRESETS
from weights_convert.fetch import size_text
from weights_convert.layouts import LAYOUTS
from weights_convert.registry import REGISTRY

DOCS = Path(__file__).resolve().parents[2] / "docs" / "weights.md"
PINNED = re.compile(r"-([0-9a-f]{8})\.pth$")  # torchvision's and pytorch-fid's names
ENTRIES = pytest.mark.parametrize("entry", REGISTRY.values(), ids=REGISTRY.keys())


def test_the_converter_knows_every_network():
    assert {entry.network for entry in REGISTRY.values()} <= set(LAYOUTS)


def test_the_paper_preset_can_be_fetched():
    config = PRESETS["paper"]
    names = {
        config.correspondence.features,
        config.inversion.generator,
        config.selection.features,
    }
    assert names <= REGISTRY.keys()


def test_names_and_files_are_unique():
    """Downloads of two entries would meet in one file otherwise."""
    entries = list(REGISTRY.values())
    assert [entry.name for entry in entries] == list(REGISTRY)
    assert len({entry.filename for entry in entries}) == len(entries)


@ENTRIES
def test_names_can_be_file_names(entry):
    assert re.fullmatch(r"[a-z0-9_]+", entry.name)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+\.(pth|pt|pkl)", entry.filename)


@ENTRIES
def test_addresses_are_encrypted(entry):
    for url in (*entry.urls, entry.page):
        assert urlsplit(url).scheme == "https"
        assert urlsplit(url).hostname


@ENTRIES
def test_hash_is_whole_or_the_published_eight_digits(entry):
    if entry.sha256 is not None:
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}", entry.sha256)


@pytest.mark.parametrize(
    "entry", [entry for entry in REGISTRY.values() if PINNED.search(entry.filename)]
)
def test_hash_begins_as_the_file_name_says(entry):
    assert entry.sha256.startswith(PINNED.search(entry.filename)[1])
    assert all(PINNED.search(url)[1] == PINNED.search(entry.filename)[1] for url in entry.urls)


def test_the_hashes_in_names_are_seen():
    assert sum(bool(PINNED.search(entry.filename)) for entry in REGISTRY.values()) == 9


@ENTRIES
def test_generators_are_marked_non_commercial(entry):
    generator = entry.network in ("pggan", "stylegan", "stylegan2")
    assert entry.non_commercial == generator
    assert entry.licence


def test_a_file_without_address_says_where_people_find_it():
    by_hand = [entry for entry in REGISTRY.values() if not entry.urls]
    assert by_hand
    assert all("drive.google.com" in entry.page for entry in by_hand)
    assert {entry.hosts for entry in by_hand} == {"by hand"}


def test_hosts_name_every_mirror_once():
    assert REGISTRY["inception_fid"].hosts == "github.com"
    assert REGISTRY["resnet50_2017"].hosts == "download.pytorch.org, zenodo.org"


def row(entry):
    hash_text = {None: "-", 8: "8 digits", 64: "full"}[entry.sha256 and len(entry.sha256)]
    where = entry.hosts if entry.urls else f"[by hand]({entry.page})"
    cells = (f"`{entry.name}`", f"`{entry.filename}`", size_text(entry.size), hash_text, where)
    return f"| {' | '.join(cells)} | {entry.licence} | {entry.note} |"


def test_docs_show_the_registry():
    expected = [row(entry) for entry in REGISTRY.values()]
    table = DOCS.read_text("utf-8").split("## What can be fetched")[1]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert rows == expected, "the table should be:\n" + "\n".join(expected)
