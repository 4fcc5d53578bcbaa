"""The shape of the source: layers, sizes, signatures."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mobilenets"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
EVERY_FILE = [path for part in ("src", "tests", "benchmarks", "docs") for path in sorted((ROOT / part).rglob("*.py"))]
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines; the docstring apart, which for a verb is the help of twenty flags
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, Function)]


def length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def docstring_length(node: Function) -> int:
    return length(node.body[0]) if ast.get_docstring(node) else 0


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-logo", "--no-cache"], cwd=folder, capture_output=True, check=False, text=True
    )


def test_lower_layers_never_import_higher_ones() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_layers_contract_finds_an_import_upwards(tmp_path: Path) -> None:
    """The contract does find what it is there to find."""
    package = tmp_path / "broken"
    package.mkdir()
    for module in ("__init__", "cli", "results", "arch"):
        (package / f"{module}.py").touch()
    (package / "errors.py").write_text("from broken import cli\n", encoding="utf-8")
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contract = settings[settings.index("[tool.importlinter]") :].replace('"mobilenets"', '"broken"')
    (tmp_path / "pyproject.toml").write_text(contract, encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "broken.errors is not allowed to import broken.cli" in done.stdout


@pytest.mark.parametrize("path", EVERY_FILE, ids=[str(path.relative_to(ROOT)) for path in EVERY_FILE])
def test_no_file_is_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path.name} has {lines} lines; split it"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_function_is_long(path: Path) -> None:
    lengths = {node.name: length(node) - docstring_length(node) for node in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_keywords_catch_all_in_public_signatures(path: Path) -> None:
    """A mistyped keyword must not vanish; a nested function is nobody's public signature."""
    outer = [node for node in parsed(path).body if isinstance(node, Function | ast.ClassDef)]
    methods = [node for scope in outer if isinstance(scope, ast.ClassDef) for node in scope.body]
    public = [
        node
        for node in [*outer, *methods]
        if isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__init__")
    ]
    assert [node.name for node in public if node.args.kwarg is not None] == []


def test_modules_have_telling_names() -> None:
    assert {path.stem for path in FILES} & VAGUE == set()
    assert {path.name for path in PACKAGE.rglob("*") if path.is_dir()} & VAGUE == set()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(parsed(path))
