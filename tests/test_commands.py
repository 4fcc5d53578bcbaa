"""Every public command: its flags are its function's keywords, all have help, and starting costs little."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import ArgumentCollection
from PIL import Image

import mobilenets
from mobilenets.checkpoint import Checkpoint, save
from mobilenets.cli import VERBS, build_app, main


def arguments_of(name: str) -> ArgumentCollection:
    app = build_app()
    return app[name].assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True)


@pytest.mark.parametrize("name", VERBS)
class TestVerbs:
    """What holds for every public verb."""

    def test_flags_are_the_keyword_arguments(self, name: str) -> None:
        parameters = inspect.signature(getattr(mobilenets, name)).parameters
        arguments = arguments_of(name)
        flags = {flag for argument in arguments for flag in argument.names if flag.startswith("--")}
        keywords = {parameter.name for parameter in parameters.values() if parameter.kind is parameter.KEYWORD_ONLY}
        assert flags == {f"--{key.replace('_', '-')}" for key in keywords} | {"--json"}

    def test_signature(self, name: str) -> None:
        for parameter in inspect.signature(getattr(mobilenets, name)).parameters.values():
            assert parameter.kind is not parameter.VAR_KEYWORD, "a mistyped keyword must not vanish"
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.annotation is not bool or parameter.default is False, "a switch is off by default"

    def test_everything_has_help(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        for argument in arguments_of(name):
            assert argument.parameter.help, f"{name}: {argument.name} has no help; add it to the docstring's Args"
        assert main([name, "--help"]) == 0
        summary = (getattr(mobilenets, name).__doc__ or "").splitlines()[0]
        assert summary in " ".join(capsys.readouterr().out.split())

    def test_unknown_flag_is_a_usage_error(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([name, "--no-such-flag"]) == 2
        assert capsys.readouterr().out == ""


def test_commands_are_the_public_functions() -> None:
    public = [name for name in mobilenets.__all__ if inspect.isfunction(getattr(mobilenets, name))]
    assert set(public) - {"classify", "detect", "load", "open_data"} == set(VERBS)


# Whatever a start needs and no more: these take seconds to import.
HEAVY = {"torch", "torchvision", "accelerate", "matplotlib", "sklearn", "scipy", "onnx", "onnxruntime", "h5py", "timm"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *[[verb, "--help"] for verb in VERBS]])
def test_starts_without_heavy_imports(arguments: list[str]) -> None:
    assert imported_by(arguments).isdisjoint({*HEAVY, "numpy"})


def imported_by(arguments: list[str]) -> set[str]:
    """Run one command in a fresh interpreter; return the top-level modules it imported."""
    code = f"""
import sys
from mobilenets.cli import main
code = main({arguments!r})
print(" ".join(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["train", "digits"], "torch", "train"),
        (["train", "digits"], "torchvision", "train"),
        (["train", "digits"], "accelerate", "train"),
        (["train", "digits"], "matplotlib", "train"),
        (["evaluate", "efficientnet_lite0", "digits", "--runtime", "torch"], "torch", "train"),
        (["predict", "efficientnet_lite0", "photo.jpg", "--runtime", "torch"], "torch", "train"),
        (["convert", "network.h5", "--out", "network.safetensors"], "h5py", "convert"),
        (["convert", "network.onnx", "--out", "network.safetensors"], "onnx", "convert"),
        (["diagnose", "network.safetensors"], "torch", "train"),
        (["prune", "network.safetensors", "--dead"], "torch", "train"),
        (["reproduce", "v2-table4"], "matplotlib", "train"),
    ],
)
def test_missing_extra_is_one_line(arguments: list[str], package: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "network.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "network.onnx").write_bytes(b"\x08\x07")
    code = f"""
import sys
sys.modules[{package!r}] = None
from mobilenets.cli import main
sys.exit(main({arguments!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=tmp_path, text=True)
    assert (
        done.stderr == f"mobilenets: {package} is needed here and is not installed: pip install 'mobilenets[{extra}]'\n"
    )
    assert done.stdout == ""
    assert done.returncode == 1


@pytest.mark.parametrize(
    "command",
    [
        "train digits",
        "evaluate m.safetensors set",
        "predict m.safetensors set/red/0.png",
        "diagnose m.safetensors",
        "reproduce v2-table2",
        "fit m.safetensors set --method adapt --latency-ms 5",
        "export m.safetensors --to onnx --out OUT/m.onnx",
        "export m.safetensors --to native --out OUT/m",
        "quantize m.safetensors --data set --out OUT/m.safetensors",
        "prune m.safetensors --dead --out OUT/m.safetensors",
    ],
)
@pytest.mark.parametrize("out", ["taken", "/proc/nowhere"])
def test_an_out_that_is_no_folder_is_known_before_the_work(
    command: str,
    out: str,
    colour_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save(colour_checkpoint, tmp_path / "m.safetensors")
    (tmp_path / "set" / "red").mkdir(parents=True)
    Image.new("RGB", (20, 20), (250, 0, 0)).save(tmp_path / "set" / "red" / "0.png")
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    words = command.replace("OUT", out).split()
    assert main(words if "--out" in words else [*words, "--out", out]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"mobilenets: {out}: ")
    assert printed.err.count("\n") == 1
    assert ("is a file: choose a folder with --out" if out == "taken" else "cannot be written to") in printed.err
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("side", ["5x", "x5", "1x2x3", "large", "2.5"])
def test_a_side_that_is_none_is_said(side: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mobilenet_v2", "--resolution", side]) == 2
    assert f"--resolution: '{side}' is neither a side such as 224 nor height x width" in capsys.readouterr().err
