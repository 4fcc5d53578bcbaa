"""What the documents say is so: their commands parse, their Python runs, their generated parts are current."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mobilenets
from mobilenets.cli import VERBS, build_app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """Return the words of each command line: continued lines joined, comments gone."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def mobilenets_arguments(words: list[str]) -> list[str] | None:
    """Return what the command gives to mobilenets, None where it runs something else."""
    while "=" in words[0]:
        words = words[1:]
    if Path(words[0]).name == "mobilenets":
        return words[1:]
    if words[0] in {"python", "torchrun", "accelerate"} and "mobilenets" in words:
        return words[words.index("mobilenets") + 1 :]
    return None


SHELL = [words for path in DOCUMENTS for block in blocks(path, "sh") for words in commands(block)]
# A recipe's lines begin with a tab; make's own variables are written as a shell would see them.
RECIPES = commands("\n".join(re.findall(r"^\t(.*)$", MAKEFILE.replace("$(BIN)", ".venv/bin"), re.MULTILINE)))


@pytest.mark.parametrize("words", [*SHELL, *filter(mobilenets_arguments, RECIPES)], ids=shlex.join)
def test_shell_commands_are_understood(words: list[str]) -> None:
    arguments = mobilenets_arguments(words)
    if arguments is not None:
        assert arguments[0] in VERBS
        build_app().parse_args(arguments, exit_on_error=False, print_error=False)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)
    elif Path(words[0]).name == "python":
        assert (ROOT / words[1]).exists() or words[1] == "-m"
    else:
        assert words[0] == "pip"


def test_examples_cover_every_command() -> None:
    assert {arguments[0] for words in SHELL if (arguments := mobilenets_arguments(words))} == set(VERBS)


PYTHON = [
    pytest.param(block, id=name)
    for path, name in zip(DOCUMENTS, NAMES, strict=True)
    for block in blocks(path, "python")
]


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runs in a folder with a picture `photo.jpg`, and prints something."""
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.jpg")
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert capsys.readouterr().out


def test_generated_parts_of_the_pages_are_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "readme.py"))
    for page in script["PAGES"]:
        assert script["generated"](page) == page.read_text(encoding="utf-8"), "run: .venv/bin/python docs/readme.py"


def test_every_public_name_has_an_entry() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "readme.py"))
    entries = re.findall(r"^### `(\w+)`$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(entries) == sorted(mobilenets.__all__)
    assert {*script["PAGE_OF"]} < {*entries}
    assert {*script["PAGE_OF"].values()} <= {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_benchmark_is_listed_and_its_results_say_where_they_are_from() -> None:
    listed = set(
        re.findall(r"^\| `(\w+)` \|", (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {
        "environment",
        "serving_clients",
        "__init__",
    }
    assert listed == scripts
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        assert document["name"] == path.stem
        assert document["command"].split()[2].removeprefix("benchmarks.") in scripts
        assert {"processor", "cores", "date", "commit", "python", "mobilenets"} <= set(document["environment"])
        for figure in document["figures"]:
            assert set(figure) == {"what", "value", "unit", "wanted"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


def test_make_targets_are_few_and_phony() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert targets == set(phony[1].split()) == {"demo", "test", "test-slow", "check", "bench"}
