"""The command line is the Python API: same names, same defaults, and nothing printed that was not asked for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import mobilenets
from mobilenets.cli import main
from mobilenets.errors import InputError

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Echo:
    values: dict[str, Any]

    def __str__(self) -> str:
        return " ".join(f"{name}={value!r}" for name, value in self.values.items())

    def to_json(self) -> dict[str, Any]:
        return self.values


def echo(
    model: str,
    images: Sequence[str],
    *,
    top: int = 5,
    width: float = 1.0,
    resolution: int | tuple[int, int] | None = None,
    precision: Literal["float32", "int8"] = "float32",
    freeze: bool = False,
    out: Path | None = None,
) -> Echo:
    """Say what was given.

    A [bracket] and a *star* are no markup.

    >>> print(1 + 1)
    2

    Args:
        model: an architecture.
        images: pictures.
        top: how many.
        width: the multiplier.
        resolution: the input.
        precision: of the numbers.
        freeze: only the head.
        out: a folder.
    """
    print("noise from a library")
    return Echo(
        {
            "model": model,
            "images": list(images),
            "top": top,
            "width": width,
            "resolution": resolution,
            "precision": precision,
            "freeze": freeze,
            "out": str(out),
        }
    )


def refuse(path: str) -> Echo:
    """Refuse a file.

    Args:
        path: the file.
    """
    raise InputError(f"{path}: cannot be read;\nrestore it")


def interrupted(*, message: str = "") -> Echo:
    """Be interrupted.

    Args:
        message: what to say.
    """
    raise KeyboardInterrupt(message)


def full(path: str) -> Echo:
    """Find the disk full.

    Args:
        path: the file.
    """
    raise OSError(28, "No space left on device", path)


def broken() -> Echo:
    """Have a bug."""
    raise ZeroDivisionError("a bug")


def silent() -> None:
    """Return nothing."""


TEST_VERBS: dict[str, Callable[..., Echo | None]] = {
    "echo": echo,
    "refuse": refuse,
    "interrupted": interrupted,
    "full": full,
    "broken": broken,
    "silent": silent,
}


def run(*arguments: str) -> int:
    return main(arguments, verbs=TEST_VERBS)


def test_result_is_printed_and_noise_is_not_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("echo", "m", "a.jpg", "b.jpg") == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "model='m' images=['a.jpg', 'b.jpg'] top=5 width=1.0 resolution=None precision='float32'"
        " freeze=False out='None'\n"
    )
    assert printed.err == "noise from a library\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "echo m é.jpg --top 3 --width 0.5 --resolution 160x224 --precision int8 --freeze --out runs --json"
    assert run(*arguments.split()) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "m",
        "images": ["é.jpg"],
        "top": 3,
        "width": 0.5,
        "resolution": [160, 224],
        "precision": "int8",
        "freeze": True,
        "out": "runs",
    }


def test_side_of_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("echo", "m", "a.jpg", "--resolution", "96", "--json") == 0
    assert json.loads(capsys.readouterr().out)["resolution"] == 96


def test_json_survives_names_that_are_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    name = b"\xff.jpg".decode(errors="surrogateescape")
    assert run("echo", "m", name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == [name]


def test_verb_without_a_result_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("silent") == 0
    assert capsys.readouterr() == ("", "")


def test_our_error_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("refuse", "x.jpg", "--json") == 1
    assert capsys.readouterr() == ("", "mobilenets: x.jpg: cannot be read; restore it\n")


def test_full_disk_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("full", "out.safetensors") == 1
    assert capsys.readouterr().err == "mobilenets: No space left on device: out.safetensors\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "interrupted"), (("--message", "saved; go on with --resume"), "saved; go on with --resume")],
)
def test_interrupt_is_one_line_and_code_130(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("interrupted", *arguments) == 130
    assert capsys.readouterr() == ("", f"mobilenets: {said}\n")


WAITING = """
import sys, time
from mobilenets.cli import main

def wait():
    "Wait."
    print("waiting", flush=True)
    time.sleep(60)

sys.exit(main(["wait"], verbs={"wait": wait}))
"""


def test_ctrl_c_has_no_traceback() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "mobilenets: interrupted\n"
    assert process.returncode == 130


def test_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run("broken")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ecko", "m"], '"ecko"'),
        (["echo"], "MODEL"),
        (["echo", "m", "a.jpg", "--widht", "1"], "--widht"),
        (["echo", "m", "a.jpg", "--width", "wide"], "--width"),
        (["echo", "m", "a.jpg", "--resolution", "160xwide"], "--resolution"),
        (["echo", "m", "a.jpg", "--precision", "int9"], "--precision"),
        (["silent", "more"], "more"),
        (["--bogus"], "--bogus"),
    ],
)
def test_usage_error_is_one_line_and_code_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("mobilenets: ")
    assert named in printed.err
    assert printed.err.count("\n") == 1
    assert "--help" in printed.err


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("echo", "--help") == 0
    text = capsys.readouterr().out
    assert "Say what was given." in text
    assert "A [bracket] and a *star* are no markup." in text
    assert "the multiplier." in text
    assert "--model" not in text
    assert "noise" not in text
    assert ">>>" not in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"{mobilenets.__version__}\n"


@pytest.mark.parametrize(("rank", "printed"), [("0", True), ("1", False)])
def test_first_of_several_processes_prints(
    rank: str, printed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert run("echo", "m", "a.jpg") == 0
    assert bool(capsys.readouterr().out) is printed
    assert run("refuse", "x.jpg") == 1
    assert capsys.readouterr().err == f"mobilenets (process {rank}): x.jpg: cannot be read; restore it\n"


def test_closed_pipe_is_quiet() -> None:
    """`mobilenets show ... | head -1`, where the reader is gone before anything is printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED_PIPE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


CLOSED_PIPE = """
import sys, time
from mobilenets.cli import main

class Long:
    def __str__(self):
        return "line\\n" * 100_000

def long():
    "Print much."
    return Long()

sys.exit(main(["long"], verbs={"long": long}))
"""


def test_terminal_without_unicode_still_gets_its_result() -> None:
    code = CLOSED_PIPE.replace('"line\\n" * 100_000', '"\\u00e9 \\u4e2d"')
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONIOENCODING": "latin-1"}, text=True,
        encoding="latin-1",
    )  # fmt: skip
    assert done.stdout == "é \\u4e2d\n"


def test_module_runs_like_the_script() -> None:
    done = subprocess.run([sys.executable, "-m", "mobilenets", "--version"], capture_output=True, check=True, text=True)
    assert done.stdout == f"{mobilenets.__version__}\n"
