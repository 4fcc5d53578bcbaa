"""What `import mobilenets` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mobilenets

SOURCE = Path(mobilenets.__file__).read_text(encoding="utf-8")


def order(name: str) -> tuple[bool, bool, str]:
    """Constants, then types, then functions."""
    return not name.isupper(), not name[0].isupper(), name


def test_all_is_sorted() -> None:
    assert list(mobilenets.__all__) == sorted(set(mobilenets.__all__), key=order)


@pytest.mark.parametrize("name", mobilenets.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(mobilenets, name)
    assert not isinstance(value, ModuleType)
    assert name in dir(mobilenets)


def test_types_and_names_are_the_same_list() -> None:
    """The checker reads the imports under TYPE_CHECKING, the interpreter the table of homes; both say the same."""
    homes = {name: home for home, names in mobilenets._HOMES.items() for name in names}
    imports = {
        alias.name: node.module
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mobilenets")
        for alias in node.names
        if alias.asname == alias.name
    }
    assert imports == homes
    assert set(homes) == set(mobilenets.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'sho'"):
        mobilenets.sho  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_in_the_changelog() -> None:
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{mobilenets.__version__}]" in changelog


def imported(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the names of the modules it imported."""
    code = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split())


def test_import_costs_nothing() -> None:
    modules = imported("import mobilenets")
    assert {name for name in modules if name.startswith("mobilenets")} == {"mobilenets"}
    assert {"numpy", "PIL", "torch", "rich", "cyclopts"}.isdisjoint(modules)


def test_verbs_hide_their_modules() -> None:
    """`mobilenets.train` is the function, whether or not the module mobilenets.train was imported before."""
    same_name = [name for name, home in mobilenets._HOME_OF.items() if home == f"mobilenets.{name}"]
    for name in same_name:
        imported(f"import mobilenets.{name}, mobilenets\nassert callable(mobilenets.{name}), mobilenets.{name}")
