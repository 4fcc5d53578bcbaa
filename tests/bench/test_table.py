"""Latency tables: what they hold, what is measured again, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

import mobilenets
from mobilenets.arch import Plan, arch_named, plan
from mobilenets.bench import tabulate as tabulating
from mobilenets.bench import tabulation
from mobilenets.bench.configuration import Configuration, Job
from mobilenets.bench.probes import like, probes
from mobilenets.bench.table import (
    Table,
    Timed,
    of_this_release,
    read_table,
    release,
    shape,
    table_for,
    write_table,
)
from mobilenets.bench.tabulate import Effort, Times, tabulate
from mobilenets.errors import InputError
from mobilenets.fit.choosing import say
from mobilenets.fit.device import device, own_path
from mobilenets.machine import describe_machine

ONNX = Configuration("onnx", "int8", 1)
REFERENCE = Configuration("reference", "float32", 1)


def small(width: float = 0.25, side: int = 16) -> Plan:
    return plan(arch_named("mobilenet_v2_mnist"), width=width, resolution=side)


def timed(layout: Plan, ms: float = 1.0, watch_ms: float = 2.0) -> Timed:
    return Timed(layout, ms, 0.9 * ms, watch_ms)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    networks = [timed(layout, 1.0 + index) for index, layout in enumerate(islice(probes(), 6))]
    table = Table().with_networks(ONNX, networks)
    read = read_table(write_table(table, tmp_path / "table.json"))
    assert read == table
    assert [each.layout.ops for each in read.of(ONNX)] == [each.layout.ops for each in networks]


def test_what_was_measured_is_not_missing_and_what_was_disturbed_is() -> None:
    layouts = [small(0.25), small(0.5), small(1.0)]
    table = Table().with_networks(ONNX, [timed(layouts[0]), timed(layouts[1], watch_ms=2.5)])
    assert [each.layout.width for each in table.of(ONNX)] == [0.25]
    assert [each.width for each in table.missing(ONNX, [*layouts, *layouts])] == [0.5, 1.0]
    again = table.with_networks(ONNX, [timed(layouts[1])])
    assert len(again.of(ONNX)) == len(again.networks[ONNX]) == 2


def test_a_shape_is_of_what_is_computed_and_not_of_names() -> None:
    arch = arch_named("mobilenet_v2")
    same = plan(replace(arch, name="another"), resolution=96)
    assert shape(same) == shape(plan(arch, resolution=96)) != shape(plan(arch, resolution=128))
    assert shape(plan(replace(arch, shortcut="none"), resolution=96)) != shape(same)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 9}', '{"format": 1, "tables": [{}]}'])
def test_another_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"table\.json"):
        read_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.json")


@pytest.mark.parametrize(
    "other",
    [{"processor": "an abacus"}, {"cores": "4096"}, {"processor_model": "0-0-0"}, {"instructions": "sse4_2 beads"}],
)
def test_the_table_of_another_machine_is_not_extended(tmp_path: Path, other: dict[str, str]) -> None:
    path = write_table(Table(describe_machine() | other), tmp_path / "table.json")
    if "processor_model" in other and "processor_model" not in describe_machine():
        pytest.skip("this system does not tell processors of one name apart")
    with pytest.raises(InputError, match="not this machine"):
        table_for(path)
    assert table_for(tmp_path / "new.json").networks == {}


def test_a_table_stays_this_machines_where_it_names_fewer_instructions_and_no_model(tmp_path: Path) -> None:
    machine = {name: text for name, text in describe_machine().items() if name != "processor_model"}
    named = machine.pop("instructions", "").partition(";")[0].split()
    path = write_table(
        Table(machine | {"instructions": " ".join([*named[1:], "; a virtual machine"])}), tmp_path / "t.json"
    )
    assert table_for(path).machine["processor"] == machine["processor"]


def test_a_table_of_another_release_of_a_runtime_is_not_extended(tmp_path: Path) -> None:
    package, here = release("reference")
    old = Table(describe_machine() | {package: "0.1"}).with_networks(REFERENCE, [timed(small())])
    path = write_table(old, tmp_path / "table.json")
    assert not of_this_release(old, "reference")
    with pytest.raises(InputError, match=rf"{package} 0\.1, and {here}"):
        table_for(path, ["reference"])
    assert table_for(path, ["onnx"]) == old  # nothing of that runtime is in it
    assert not device("reference", 1, path, say).own
    assert own_path("reference") != own_path("engine")
    assert release("engine") == ("mobilenets", mobilenets.__version__)


def test_probes_are_the_same_each_time_and_of_three_kinds() -> None:
    first, second = list(islice(probes(), 30)), list(islice(probes(), 30))
    assert [shape(layout) for layout in first] == [shape(layout) for layout in second]
    assert len({shape(layout) for layout in first}) == 30
    names = {layout.arch.name for layout in first}
    assert {"probe_searched", "probe_narrowed"} < names
    assert {op.kernel for layout in first for op in layout.ops if op.depthwise} == {3, 5, 7}


def test_networks_like_one_have_its_operations_and_fewer_channels() -> None:
    layout = plan(arch_named("mobilenet_v3_small"), resolution=96)
    for each in like(layout, 4):
        assert each.resolution == layout.resolution
        assert sum(op.out[0] for op in each.ops if op.kind == "conv") < sum(
            op.out[0] for op in layout.ops if op.kind == "conv"
        )


def test_a_table_is_filled_by_running_and_kept_after_each_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabulating, "watched", lambda: small(0.25, 8))
    monkeypatch.setattr(tabulating, "GROUP", 2)
    monkeypatch.setattr(tabulating, "DISTURBED", 1e9)
    path, lines = tmp_path / "table.json", list[str]()
    layouts = [small(0.25), small(0.5), small(0.25, 24)]
    table = tabulate(Table(), REFERENCE, layouts, path=path, effort=Effort(rounds=2, runs=1), say=lines.append)
    assert {shape(each.layout) for each in table.networks[REFERENCE]} == {shape(layout) for layout in layouts}
    assert all(0 < each.min_ms <= each.ms for each in table.networks[REFERENCE])
    assert read_table(path) == table
    assert len(lines) == 2


def test_a_busy_machine_is_asked_again_and_the_quietest_attempt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = iter([[Times(4.0, 4.0), Times(8.0, 8.0)], [Times(2.1, 2.0), Times(5.0, 4.9)]])

    def measured(jobs: Sequence[Job], effort: Effort) -> list[Times]:
        assert len(jobs) == 2
        assert effort.rounds == 3
        return next(attempts)

    monkeypatch.setattr(tabulating, "measured", measured)
    table = Table().with_networks(REFERENCE, [timed(small(0.25))])
    table = tabulate(table, REFERENCE, [small(0.5)], effort=Effort(rounds=3))
    assert [(each.ms, each.watch_ms) for each in table.of(REFERENCE)] == [(1.0, 2.0), (5.0, 2.1)]


def test_time_that_is_up_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabulating, "measured", lambda *_: pytest.fail("must not measure"))
    lines: list[str] = []
    table = tabulate(Table(), REFERENCE, [small()], effort=Effort(deadline=0.0), say=lines.append)
    assert table.networks == {}
    assert "time is up" in lines[0]


def test_the_verb_fills_a_file_and_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(jobs: Sequence[Job], effort: Effort) -> list[Times]:
        assert effort.rounds == 10
        return [Times(1.1 + index, 1.0 + index) for index in range(len(jobs))]

    monkeypatch.setattr(tabulating, "measured", measured)
    monkeypatch.setattr(tabulation, "probes", lambda: iter([small(0.25), small(0.5), small(1.0)]))
    path = tmp_path / "pi.json"
    arguments = {"table": path, "runtimes": "reference", "precisions": "float32"}
    first = mobilenets.bench(networks=2, **arguments)  # type: ignore[arg-type]
    assert first.to_json()["rows"][0]["networks"] == 2
    assert "reference" in str(first)
    second = mobilenets.bench(networks=3, **arguments)  # type: ignore[arg-type]
    assert second.to_json()["rows"][0]["networks"] == 3
    assert json.loads(path.read_text(encoding="utf-8"))["machine"] == describe_machine()


def test_neither_model_nor_table_is_an_error() -> None:
    with pytest.raises(InputError, match="name a MODEL"):
        mobilenets.bench()
    with pytest.raises(InputError, match="float32 and int8"):
        mobilenets.bench(table=Path("nowhere/table.json"), precisions="bf16")
