"""What the modules may import, what the package exports, and that it is documented."""

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import oeft_jax

ROOT = Path(oeft_jax.__file__).parent
LEVELS = (  # a module imports only from the lines above its own
    ("_types", "_checks", "remember", "memory", "jitted", "schedule", "products"),
    ("huge_pages", "models.winograd", "devices", "pair_list", "patches"),
    ("models.layers", "image", "checkpoint", "weights", "augment", "tiled"),
    ("models.vgg", "models.generator", "correlation", "metrics", "guided"),
    ("dense", "field", "finish", "consensus"),
    ("warp", "layout"),
    (
        "models.resnet",
        "models.inception",
        "models.alexnet",
        "models.squeezenet",
        "models.vit",
        "models.lpips",
        "models.styled",
    ),
    ("models.upsample",),
    ("models.pggan", "models.stylegan", "models.stylegan2", "losses", "config"),
    ("models.backbone", "loss_terms"),
    ("correspondence", "selection", "flags", "golden", "compile_cache"),
    ("composition", "loading", "process", "tuning", "picture"),
    ("objective",),
    ("inversion",),
    ("refine",),
    ("pipeline",),
    ("",),  # the package itself
    ("progress", "report", "sample", "memory_plan", "group"),
    ("out_folder", "memory_fit"),
    ("pairs",),
    ("translate",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
PURE = (
    "models.",
    "products",
    "losses",
    "loss_terms",
    "correlation",
    "tiled",
    "dense",
    "warp",
    "consensus",
    "layout",
    "augment",
    "metrics",
    "patches",
    "guided",
    "field",
    "finish",
    "refine",
    "composition",
    "objective",
)
READS_OR_WRITES = {"open", "Path", "read_bytes", "read_text", "write_bytes", "write_text", "print"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_of(path): ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def imports_of(tree):
    """Full dotted names of everything imported, at the top and inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree):
    """Names of our modules that a module imports: of "a.b.c" the longest part that is one."""
    for full in imports_of(tree):
        if full.split(".")[0] == "oeft_jax":
            parts = full.split(".")[1:]
            while ".".join(parts) not in TREES:
                parts = parts[:-1]
            yield ".".join(parts)


def is_pure(name):
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in PURE)


def test_every_module_was_found():
    assert set(LEVEL_OF) <= set(TREES)


def test_imports_have_no_cycle():
    graph = {name: set(ours(tree)) - {name} for name, tree in TREES.items()}
    assert sum(map(len, graph.values())) > 30
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", sorted(LEVEL_OF))
def test_imports_point_one_way(name):
    for imported in ours(TREES[name]):
        assert imported in LEVEL_OF, f"{imported} is above everything listed"
        assert LEVEL_OF[imported] < LEVEL_OF[name], imported


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("models.")])
def test_models_know_nothing_of_files_and_runs(name):
    allowed = ("_types", "_checks", "remember")
    imported = list(ours(TREES[name]))
    assert all(one in allowed or one.startswith("models.") for one in imported), imported


@pytest.mark.parametrize("name", [name for name in TREES if is_pure(name)])
def test_pure_modules_do_no_input_or_output(name):
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    names = {getattr(call, "id", getattr(call, "attr", "")) for call in calls}
    assert not names & READS_OR_WRITES
    loads = [c for c in calls if isinstance(c, ast.Attribute) and c.attr in ("load", "save")]
    assert not loads


def test_losses_take_no_network():
    models = [name for name in ours(TREES["losses"]) if name.startswith("models")]
    assert models == ["models.layers"]


@pytest.mark.parametrize("name", sorted(TREES))
def test_nothing_imports_torch_training_or_tests(name):
    roots = {full.split(".")[0] for full in imports_of(TREES[name])}
    assert not roots & {"torch", "torchvision", "tensorflow", "training", "tests", "pytest"}


@pytest.mark.parametrize("name", sorted(name for name in TREES if name != "models"))
def test_public_functions_and_classes_are_documented(name):
    tree = TREES[name]
    assert ast.get_docstring(tree), "the module"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_what_is_exported_is_there():
    assert sorted(oeft_jax.__all__) == sorted(set(oeft_jax.__all__))
    found = {name: getattr(oeft_jax, name) for name in oeft_jax.__all__}
    assert {"translate", "load_parts", "Config", "InputError", "NonFiniteError"} <= set(found)
    importlib.import_module("oeft_jax.translate")  # binds a module over the function's name
    modules = [name for name, value in found.items() if isinstance(value, ModuleType)]
    assert modules in ([], ["translate"])
    assert callable(oeft_jax.translate)


def test_the_package_names_what_it_exports():
    imported = [
        alias.asname or alias.name
        for node in TREES[""].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(imported) == sorted(oeft_jax.__all__)
