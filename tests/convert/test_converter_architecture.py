"""What the converter may import: no PyTorch, no unpickling, and nothing imports it back."""

import ast
from pathlib import Path

import pytest

import oeft_jax
import weights_convert

OURS = Path(weights_convert.__file__).parent
TREES = {path.stem: ast.parse(path.read_text("utf-8")) for path in sorted(OURS.glob("*.py"))}
TABLES = (
    "vgg",
    "resnet",
    "inception",
    "alexnet",
    "squeezenet",
    "lpips",
    "pggan",
    "stylegan",
    "stylegan2",
    "vit",
)


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", sorted(TREES))
def test_nothing_can_unpickle_or_needs_pytorch(name):
    roots = {full.split(".")[0] for full in imports_of(TREES[name])}
    assert not roots & {"torch", "tensorflow", "pickle", "dill", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("name", sorted(TREES))
def test_nothing_evaluates_text(name):
    called = {
        getattr(node.func, "id", "") for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("name", TABLES)
def test_tables_hold_no_logic_of_the_engine(name):
    ours = {full for full in imports_of(TREES[name]) if full.startswith("weights_convert")}
    assert all(full.startswith("weights_convert.rules.") for full in ours), ours


def test_only_the_fetch_command_reaches_the_network():
    reach = {"socket", "http", "urllib", "urllib3", "requests", "pooch", "httpx", "ftplib"}
    found = {
        name
        for name, tree in TREES.items()
        if {full.split(".")[0] for full in imports_of(tree)} & reach
    }
    assert found <= {"download", "fetch"}


def test_the_package_never_imports_the_converter():
    for path in Path(oeft_jax.__file__).parent.rglob("*.py"):
        roots = {full.split(".")[0] for full in imports_of(ast.parse(path.read_text("utf-8")))}
        assert "weights_convert" not in roots, path


@pytest.mark.parametrize("name", sorted(TREES))
def test_public_functions_and_classes_are_documented(name):
    assert ast.get_docstring(TREES[name]), "the module"
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in TREES[name].body if isinstance(n, kinds) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
