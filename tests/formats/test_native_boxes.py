"""A detector in C finds the boxes that Python makes of the same maps, in the memory that its header says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenets import export, native, runtime
from mobilenets.arch.detector import Detector
from mobilenets.checkpoint import Checkpoint, save
from mobilenets.engine import reference
from mobilenets.engine.memory import layout
from mobilenets.errors import InputError, ParityError
from mobilenets.formats import native_boxes, native_build
from mobilenets.formats.native_file import to_native
from mobilenets.image import fit, normalize
from mobilenets.image.decode import decode
from mobilenets.image.detection import Decoder, Found

Networks = Callable[..., Checkpoint]
CHECKS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror", "-pedantic")


def rows(found: Found) -> np.ndarray:
    return np.column_stack([found.scores, found.classes, found.boxes])


def header(folder: Path) -> dict[str, int]:
    """Return the numbers of the header by name."""
    lines = [line.split() for line in (folder / "net.h").read_text().splitlines() if line.startswith("#define NET_")]
    return {line[1].removeprefix("NET_"): int(line[2]) for line in lines if len(line) == 3}


def parts(numbers: list[float], values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps and the boxes (N, 6) that the example prints of one picture."""
    assert len(numbers) == values + 1 + 6 * int(numbers[values])
    return np.array(numbers[:values], np.float32), np.array(numbers[values + 1 :]).reshape(-1, 6)


def check_source(checkpoint: Checkpoint, folder: Path) -> None:
    """Compile the source with the compiler's own checks, every warning an error; run it on a picture of noise."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc: the checks of addresses were not run")
    for name, content in to_native(checkpoint, "net", version="1").items():
        (folder / name).write_bytes(content)
    contract = f"-ffp-contract={'off' if checkpoint.card.precision == 'int8' else 'fast'}"
    command = ("gcc", "-std=c99", "-O1", contract, *CHECKS, "net.c", "example.c", "-o", "example", "-lm")
    subprocess.run(command, cwd=folder, check=True)
    plan = checkpoint.card.plan
    batch = np.random.default_rng(5).integers(0, 256, (1, *plan.resolution, 3), dtype=np.uint8)
    (folder / "0.bin").write_bytes(batch.tobytes())
    done = subprocess.run(("./example", "--maps", "0.bin"), cwd=folder, check=True, capture_output=True, text=True)
    maps, found = parts([float(word) for word in done.stdout.split()], header(folder)["MAP_VALUES"])
    meant = reference.outputs(plan, reference.arithmetic(checkpoint), normalize(batch, checkpoint.card.preprocess))
    flat = reference.flat(meant)[0]
    # A random network's last maps have one pixel, whose statistics are of eight pictures: rounding grows there.
    tolerance = 0.0 if checkpoint.card.precision == "int8" else 2e-4 * float(np.abs(flat).max())
    np.testing.assert_allclose(maps, flat, rtol=0, atol=tolerance)
    ends = np.cumsum([each.size for each in meant])[:-1]
    raw = [part.reshape(each.shape) for part, each in zip(np.split(maps, ends), meant, strict=True)]
    expected = rows(Decoder(plan)(raw)[0])
    assert len(expected) > 20
    np.testing.assert_array_equal(found[:, 1], expected[:, 1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def with_detector(checkpoint: Checkpoint, change: Callable[[Detector], Detector]) -> Checkpoint:
    detector = checkpoint.card.arch.detector
    assert detector is not None
    arch = replace(checkpoint.card.arch, detector=change(detector))
    return replace(checkpoint, card=replace(checkpoint.card, arch=arch))


def test_boxes_of_an_int8_network(random_int8_network: Networks, tmp_path: Path) -> None:
    check_source(random_int8_network("ssdlite_mobilenet_v2"), tmp_path)


def test_sigmoids_few_candidates_and_few_boxes(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = with_detector(
        random_network("ssdlite_mobilenet_v2"),
        lambda detector: replace(detector, scores="sigmoid", candidates=11, detections=30, nms_iou=0.3),
    )
    check_source(checkpoint, tmp_path)
    assert header(tmp_path)["DETECTIONS"] == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", "ssdlite_mobilenet_v1", "ssdlite_mobilenet_v3_small"]
)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_boxes_of_every_kind(
    name: str, precision: str, random_network: Networks, random_int8_network: Networks, tmp_path: Path
) -> None:
    check_source((random_int8_network if precision == "int8" else random_network)(name), tmp_path)


@pytest.mark.parametrize("name", ["ssdlite_mobilenet_v2", "ssdlite320_mobilenet_v3_large"])
def test_making_boxes_takes_memory_that_no_map_needs(name: str, random_network: Networks) -> None:
    plan = random_network(name).card.plan
    memory = layout(plan, "float32", "streamed")
    begin = native_boxes.scratch_place(plan, memory)
    end = begin + native_boxes.scratch_bytes(plan)
    assert begin % 4 == 0
    for placed in map(memory.find, plan.outputs):
        assert end <= placed.offset or begin >= placed.end


def exported(checkpoint: Checkpoint, folder: Path, target: str | None = None, data: Path | None = None) -> None:
    try:
        native_build.compiler(target or native_build.here())
        if native_build.runner(target or native_build.here()) is None:
            pytest.skip(f"{target} programs cannot be run here")
    except InputError as error:
        pytest.skip(str(error))
    save(checkpoint, folder / "net.safetensors")
    result = export(
        str(folder / "net.safetensors"), to="native", target=target, data=None if data is None else str(data)
    )
    assert result.task == "detection"
    assert result.max_abs_error < 1e-4
    assert "net_box *found, int *count" in (folder / "net_native" / "net.h").read_text()


def test_a_detector_is_exported(random_int8_network: Networks, tmp_path: Path) -> None:
    exported(random_int8_network("ssdlite_mobilenet_v2"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name in native_build.TARGETS if name != "x86-64-linux"])
def test_other_machines_find_the_same(target: str, random_int8_network: Networks, tmp_path: Path) -> None:
    exported(random_int8_network("ssdlite_mobilenet_v2"), tmp_path, target)


@pytest.mark.parametrize("target", ["x86-64-linux", pytest.param("arm-64-linux", marks=pytest.mark.slow)])
def test_a_photograph_has_the_boxes_that_torch_finds(
    target: str, random_network: Networks, shared_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    checkpoint = random_network("ssdlite_mobilenet_v2")
    exported(checkpoint, tmp_path, target, shared_data / "images")
    folder = tmp_path / "net_native"
    photograph = min((shared_data / "images").glob("*.jpg"))
    picture = fit(decode(photograph), checkpoint.card.preprocess)
    (folder / "0.bin").write_bytes(picture.tobytes())
    program = native_build.example(folder, "net", target)
    numbers = native_build.printed(program, target, [folder / "0.bin"], "--maps")
    _, found = parts(numbers, header(folder)["MAP_VALUES"])
    with closing(runtime.load(checkpoint, "torch")) as predictor:
        raw = predictor.run(normalize(picture[np.newaxis], checkpoint.card.preprocess))
    meant = rows(Decoder(checkpoint.card.plan)(raw)[0])
    assert native.shared_boxes(meant, found) > 0.95


def test_other_boxes_are_not_written(random_network: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_network("ssdlite_mobilenet_v2")
    honest = native_build.printed

    def moved(program: Path, target: str, pictures: list[Path], what: str) -> list[float]:
        numbers = honest(program, target, pictures, what)
        values = native_boxes.facts(checkpoint.card.plan)["values"]
        assert isinstance(values, int)
        for box in range(5):
            numbers[values + 1 + 6 * box + 2] += 1
        return numbers

    monkeypatch.setattr(native_build, "printed", moved)
    with pytest.raises(ParityError, match="of its boxes are right; nothing was written"):
        exported(checkpoint, tmp_path)
    assert not (tmp_path / "net_native").exists()


def test_boxes_in_common() -> None:
    boxes = np.array([[0.9, 1, 0, 0, 9, 9], [0.8, 2, 1, 1, 5, 5]])
    assert native.shared_boxes(boxes, boxes[::-1]) == 1
    assert native.shared_boxes(boxes, boxes[:1]) == 0.5
    assert native.shared_boxes(boxes, boxes + np.array([0, 1, 0, 0, 0, 0])) == 0
    assert native.shared_boxes(boxes[:0], boxes[:0]) == 1
