"""`show --memory`: three ways to run a network, in print, in JSON and as a picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mobilenets.cli import main
from mobilenets.engine.memory import MODES, layout
from mobilenets.engine.stages import stages
from mobilenets.errors import InputError
from mobilenets.show import show
from mobilenets.show.memory import BAR, bar


def test_the_three_figures_are_the_planners(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mobilenet_v2", "--memory", "--precision", "int8", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    plan = show("mobilenet_v2").plan
    assert {mode: memory[mode] for mode in MODES} == {mode: layout(plan, "int8", mode).total for mode in MODES}
    assert memory["layerwise"] == 1_404_928
    assert memory["streamed"] < memory["fused"] < memory["layerwise"]
    assert (memory["precision"], memory["picture_bytes"], memory["picture"]) == ("int8", 224 * 224 * 3, None)
    assert [block["name"] for block in memory["blocks"]] == [stage.name for stage in stages(plan)]
    assert max(block["layerwise"] for block in memory["blocks"]) == memory["layerwise"]
    assert [op for section in memory["sections"] for op in section["ops"]] == [op.name for op in plan.ops]


def test_every_block_has_three_bars() -> None:
    text = str(show("mobilenet_v2", memory=True, precision="float16", resolution=96))
    blocks = text.rsplit("\n\n", maxsplit=1)[-1].splitlines()[1:]
    assert len(blocks) == len(stages(show("mobilenet_v2").plan))
    for line in blocks:
        assert len(re.findall(r"[\d,]+ +[█▏▎▍▌▋▊▉]+", line)) == 3
    assert any("█" * BAR in line for line in blocks)


def test_without_the_flag_nothing_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert show("mobilenet_v2").memory is None
    main(["show", "mobilenet_v2", "--json"])
    assert "memory" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("share", "drawn"), [(1, "█" * BAR), (0.5, "█" * (BAR // 2)), (0, "▏"), (1 / 16, "█▌")])
def test_bars(share: float, drawn: str) -> None:
    assert bar(share) == drawn


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    memory = show("mobilenet_v3_small", memory=True, out=tmp_path / "new").memory
    assert memory is not None
    assert memory.picture == tmp_path / "new" / "memory.png"
    assert memory.picture.read_bytes().startswith(b"\x89PNG")
    assert "memory.png" in str(memory)
    assert show("mobilenet_v3_small", memory=True, out=tmp_path / "mine.png").to_json()["memory"]["picture"] == str(
        tmp_path / "mine.png"
    )


@pytest.mark.parametrize(("memory", "name", "message"), [(True, "a.jpg", r"\.png"), (False, "a.png", "--memory")])
def test_what_cannot_be_drawn(memory: bool, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        show("mobilenet_v2", memory=memory, out=tmp_path / name)


def test_planning_imports_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, mobilenets.engine.memory as m, mobilenets.arch as a;"
        "m.peak(a.plan(a.arch_named('mobilenet_v2')), 'int8', 'streamed');"
        "sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
