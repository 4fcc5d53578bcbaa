"""Choosing: what fits is ranked, what does not is explained, and what was measured decides."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

import mobilenets
from mobilenets.arch import ARCHITECTURES, Plan, plan
from mobilenets.arch.cost import cost
from mobilenets.bench.configuration import Configuration
from mobilenets.bench.probes import probes
from mobilenets.bench.table import Table, Timed, read_table, write_table
from mobilenets.checkpoint import Card, Checkpoint, answer_size, save
from mobilenets.engine import memory
from mobilenets.errors import InputError
from mobilenets.fit.accuracy import expected, points, prior_error
from mobilenets.fit.budget import Budget, read_bytes
from mobilenets.fit.candidates import Grid, candidates, plain_card
from mobilenets.fit.device import Device
from mobilenets.fit.flash import flash_bytes
from mobilenets.fit.latency import latency_model
from mobilenets.fit.regression import non_negative
from mobilenets.fit.result import FitResult
from tests.spots import spots_detector

ONNX = {precision: Configuration("onnx", precision, 1) for precision in ("float32", "int8")}


def pretended_ms(layout: Plan, precision: str) -> float:
    """Return what a simple machine would take: multiply-adds, numbers written, and a fixed time for each operation."""
    written = sum(op.out[0] * op.out[1] * op.out[2] for op in layout.ops)
    ms = cost(layout).multiply_adds / 60e6 + written / 8e6 + 0.003 * len(layout.ops)
    return ms * (0.5 if precision == "int8" else 1.0)


@pytest.fixture(scope="module")
def table() -> Table:
    made = Table()
    for precision, configuration in ONNX.items():
        layouts = list(islice(probes(), 60))
        timed = [Timed(each, pretended_ms(each, precision), pretended_ms(each, precision), 1.0) for each in layouts]
        made = made.with_networks(configuration, timed)
    return made


@pytest.fixture
def table_file(table: Table, tmp_path: Path) -> Path:
    return write_table(table, tmp_path / "table.json")


def fitted(table_file: Path, **bounds: float | str) -> FitResult:
    arguments = {"runtime": "onnx", "table": table_file, "out": table_file.parent / "out", "unmeasured": True}
    return mobilenets.fit("mobilenet_v2", **arguments, **bounds)  # type: ignore[arg-type]


def test_predictions_of_networks_that_are_not_in_the_table_are_close(table: Table) -> None:
    model = latency_model(table.of(ONNX["float32"]))
    unseen = list(islice(probes(seed=1), 20))
    off = sorted(abs(model.predict(each) / pretended_ms(each, "float32") - 1) for each in unseen)
    assert off[10] < 0.05
    assert off[-1] < 0.15
    assert model.error is not None
    assert model.error.median < 0.05
    parts = model.blocks_ms(unseen[1])
    assert sum(parts.values()) == pytest.approx(model.predict(unseen[1]), rel=0.05)


def test_one_disturbed_network_does_not_spoil_the_others(table: Table) -> None:
    timed = list(table.of(ONNX["float32"]))
    timed[7] = replace(timed[7], ms=6 * timed[7].ms)
    model = latency_model(timed)
    unseen = list(islice(probes(seed=1), 12))
    off = sorted(abs(model.predict(each) / pretended_ms(each, "float32") - 1) for each in unseen)
    assert off[6] < 0.06


def test_too_small_a_table_is_refused(table: Table) -> None:
    with pytest.raises(InputError, match="3 networks"):
        latency_model(table.of(ONNX["int8"])[:3])


def test_least_squares_without_negative_costs() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    matrix = random.uniform(size=(40, 6))
    truth = np.array([1.0, 0.0, 2.0, 0.0, 0.5, 3.0])
    assert non_negative(matrix, matrix @ truth) == pytest.approx(truth, abs=1e-6)
    assert (non_negative(matrix, -matrix @ truth) == 0).all()


def test_the_choice_is_the_best_that_fits(table_file: Path) -> None:
    budget = Budget(1.5, 512 * 1024, 3_000_000)
    result = fitted(table_file, latency_ms=1.5, ram="512KiB", flash="3MB")
    chosen = result.chosen
    assert chosen.predicted_ms is not None
    assert chosen.predicted_ms <= 1.5
    assert chosen.ram_bytes <= 512 * 1024
    assert chosen.flash_bytes <= 3_000_000
    # The grid once more, by brute force.
    latency = {name: latency_model(read_table(table_file).of(each)) for name, each in ONNX.items()}
    fitting = [each for each in candidates(Grid(latency=latency)) if each.fits(budget)]
    # What is not run stays below the budget by twice what predictions are mostly off.
    doubt = {name: 1 + 2 * model.error.median for name, model in latency.items() if model.error is not None}
    sure = [each for each in fitting if (each.predicted_ms or 0.0) * doubt[each.precision] <= 1.5]
    best = max(sure, key=lambda each: each.expected.top1)
    assert chosen.top1 == pytest.approx(best.expected.top1 / 100)
    costs = [each.predicted_ms or 0.0 for each in result.frontier]
    top1 = [each.top1 or 0.0 for each in result.frontier]
    assert costs == sorted(costs)
    assert top1 == sorted(top1)
    assert chosen.top1 in top1
    assert bool(result.notes) == (top1[-1] != chosen.top1)


def test_the_result_says_why_and_how_sure_it_is(table_file: Path) -> None:
    result = fitted(table_file, latency_ms=1.5, ram="512KiB")
    text = str(result)
    assert "next better: " in text
    assert "does not fit: " in text
    assert "left out of the table" in text
    assert "mobilenet_v2 at its best" in text or result.chosen.model == "mobilenet_v2"
    assert (table_file.parent / "out" / "frontier.png").stat().st_size > 5000
    document = json.loads((table_file.parent / "out" / "fit.json").read_text(encoding="utf-8"))
    assert document == result.to_json()
    needed = {"model", "width", "resolution", "precision", "predicted_ms", "measured_ms", "ram_bytes", "flash_bytes"}
    assert needed <= document["chosen"].keys()


@pytest.mark.parametrize(
    ("bounds", "binding"),
    [
        ({"latency_ms": 0.001, "flash": "100MB"}, "0.001 ms"),
        ({"latency_ms": 50, "ram": "1KiB"}, "1.0 KiB of RAM"),
        ({"flash": "10KB", "ram": "100MiB"}, "10.0 KB of flash"),
        ({"multiply_adds": "1K"}, "1.0 k multiply-adds"),
    ],
)
def test_an_impossible_budget_names_the_bound_and_what_would_fit(
    table_file: Path, bounds: dict[str, float | str], binding: str
) -> None:
    with pytest.raises(InputError, match=f"the bound that binds is {binding}.*closest is mobilenet"):
        fitted(table_file, **bounds)


def test_without_a_latency_no_table_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    result = mobilenets.fit(
        "mobilenet_v2", multiply_adds="30M", precision="int8", resolution=96, only=True, out=tmp_path, runtime="onnx"
    )
    assert result.chosen.model == "mobilenet_v2"
    assert result.chosen.resolution == (96, 96)
    assert result.chosen.multiply_adds <= 30e6
    assert result.chosen.predicted_ms is None
    assert not list(tmp_path.glob("latency/*"))


def test_what_is_too_slow_when_run_is_passed_over(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(self: Device, layout: Plan, precision: str) -> float:
        assert self.own
        asked.append(f"{layout.arch.name} {precision}")
        return 9.0 if len(asked) == 1 else 0.9

    monkeypatch.setattr(Device, "measure", measure)
    path = write_table(table, tmp_path / "table.json")
    result = mobilenets.fit("mobilenet_v2", latency_ms=1.0, runtime="onnx", table=path, out=tmp_path)
    assert len(asked) == 2
    assert result.chosen.measured_ms == 0.9
    assert any("passed over" in note for note in result.notes)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_flash_is_what_a_written_file_takes(precision: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    import numpy as np

    made = request.getfixturevalue("random_network" if precision == "float32" else "random_int8_network")
    checkpoint: Checkpoint = made("mobilenet_v3_small")
    card: Card = replace(checkpoint.card, labels=("tick ✓", *checkpoint.card.labels[1:]), notes=('a "note"',))
    picture = np.zeros((*card.resolution, card.in_channels), np.uint8)
    sample = (picture, np.zeros(len(card.labels), np.float32))
    path = save(replace(checkpoint, card=card, sample=sample), tmp_path / "c.safetensors")
    assert flash_bytes(card) == path.stat().st_size


def test_a_detector_is_weighed_as_one(tmp_path: Path) -> None:
    import numpy as np

    detector = spots_detector()
    layout = detector.card.plan
    card = plain_card(layout, "float32")
    assert Card.from_json(card.to_json()) == card
    picture = np.zeros((*card.resolution, card.in_channels), np.uint8)
    sample = (picture, np.zeros(answer_size(layout), np.float32))
    path = save(replace(detector, card=card, sample=sample), tmp_path / "c.safetensors")
    assert flash_bytes(card) == path.stat().st_size


def test_ram_is_the_planners(table_file: Path) -> None:
    chosen = fitted(table_file, latency_ms=1.0).chosen
    layout = plan(ARCHITECTURES[chosen.model], width=chosen.width, resolution=chosen.resolution)
    assert chosen.ram_bytes == memory.peak(layout, "int8" if chosen.precision == "int8" else "float32")
    assert chosen.flash_bytes == flash_bytes(plain_card(layout, chosen.precision))


def test_streamed_ram_is_what_c_allocates(tmp_path: Path) -> None:
    import re

    from mobilenets.bench.synthetic import quick_int8, random_checkpoint
    from mobilenets.formats.native_file import to_native

    asked = {"ram": "64KiB", "flash": "2MB", "precision": "int8", "resolution": 96, "runtime": "reference"}
    chosen = mobilenets.fit("mobilenet_v2", memory="streamed", only=True, out=tmp_path, **asked).chosen  # type: ignore[arg-type]
    layout = plan(ARCHITECTURES[chosen.model], width=chosen.width, resolution=chosen.resolution)
    header = to_native(quick_int8(random_checkpoint(layout)), name="net", version="1")["net.h"].decode()
    (arena,) = re.findall(r"#define NET_ARENA_BYTES (\d+)", header)
    assert chosen.ram_bytes == int(arena) <= 64 * 1024
    with pytest.raises(InputError, match=r"the bound that binds is 64\.0 KiB of RAM"):
        mobilenets.fit("mobilenet_v2", only=True, out=tmp_path, **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--memory is layerwise, fused or streamed"):
        mobilenets.fit("mobilenet_v2", memory="none", ram="1MB")  # type: ignore[arg-type]


def test_accuracies_are_published_or_near_what_is_published() -> None:
    found = expected("mobilenet_v2", 1.0, 224)
    assert found is not None
    assert (found.top1, found.published) == (71.8, True)
    guessed = expected("mobilenet_v2", 0.6, 176)
    assert guessed is not None
    assert not guessed.published
    assert points()["mobilenet_v2", 0.5, 160].top1 < guessed.top1 < points()["mobilenet_v2", 0.75, 192].top1
    assert prior_error() < 1
    assert expected("nobody", 1.0, 224) is None


@pytest.mark.parametrize(("text", "count"), [("256KiB", 262144), ("1MB", 10**6), ("1.5 MiB", 1572864), (77, 77)])
def test_sizes_are_read(text: str | int, count: int) -> None:
    assert read_bytes(text, "--ram") == count


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--ram is a size"):
        mobilenets.fit("mobilenet_v2", ram="plenty")
    with pytest.raises(InputError, match="--latency-ms must be more than 0"):
        mobilenets.fit("mobilenet_v2", latency_ms=-1)
    with pytest.raises(InputError, match="name the data"):
        mobilenets.fit("model.safetensors", method="adapt", latency_ms=1)
    with pytest.raises(InputError, match="say what the budget is"):
        mobilenets.fit("model.safetensors", "digits", method="adapt", out=tmp_path)
