"""The compiled engine against the numpy reference: networks, sizes, threads, and that it stays within its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mobilenets.arch import ARCHITECTURES
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.folding import folded
from mobilenets.engine.library import host
from mobilenets.engine.lowering import lower, resized
from mobilenets.engine.program import Program, cuts
from mobilenets.engine.scratch import scratch_bytes
from mobilenets.nn.network import from_checkpoint

pytest.importorskip("halide", reason="the extra `engine` is not installed")
Networks = Callable[..., Checkpoint]
MOST_ERROR = 1e-5  # of the largest value: what float32 rounding may add up to


@contextmanager
def ready(
    checkpoint: Checkpoint, sides: tuple[int, int], threads: int = 1, *, checked: bool = False
) -> Iterator[Program]:
    target = host(checked=checked)
    layout = resized(checkpoint.card.plan, sides)
    with closing(Program(lower(layout, folded(checkpoint), target.machine), target, threads)) as program:
        yield program


def noise(checkpoint: Checkpoint, sides: tuple[int, int], count: int = 2) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(3)
    batch: npt.NDArray[np.float32] = random.normal(size=(count, checkpoint.card.in_channels, *sides)).astype(np.float32)
    return batch


def error(program: Program, checkpoint: Checkpoint, batch: npt.NDArray[np.float32]) -> float:
    """Return the largest difference from the reference as a share of the largest value, over all outputs."""
    return _error(program.outputs(program.run(batch)), checkpoint, batch)


def torchs_error(checkpoint: Checkpoint, batch: npt.NDArray[np.float32]) -> float:
    """Return the same of torch's float32, adding up in three orders: some networks magnify what rounding leaves."""
    model, pictures = from_checkpoint(checkpoint).eval(), torch.from_numpy(batch)
    worst = 0.0
    for fast, form in ((True, torch.contiguous_format), (True, torch.channels_last), (False, torch.contiguous_format)):
        with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=fast):
            found = model.to(memory_format=form)(pictures.to(memory_format=form))
        outputs = [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]
        worst = max(worst, _error(outputs, checkpoint, batch))
    return worst


def _error(outputs: Iterable[npt.NDArray[np.float32]], checkpoint: Checkpoint, batch: npt.NDArray[np.float32]) -> float:
    layout = resized(checkpoint.card.plan, (batch.shape[2], batch.shape[3]))
    expected = reference.outputs(layout, reference.arithmetic(checkpoint), batch)
    worst = 0.0
    for found, wanted in zip(outputs, expected, strict=True):
        value = found.reshape(len(batch), -1)[:, : wanted[0].size].reshape(wanted.shape)
        worst = max(worst, float(np.abs(value - wanted).max() / np.abs(wanted).max()))
    return worst


@pytest.mark.parametrize(
    ("name", "sides", "threads"),
    [
        ("mobilenet_v2", (48, 48), 1),
        ("mobilenet_v2", (53, 39), 2),
        ("mobilenet_v1", (48, 48), 2),
        ("mobilenet_v3_small", (48, 48), 1),
        ("mnasnet_a1", (48, 48), 2),
    ],
)
def test_answers_are_the_references(name: str, sides: tuple[int, int], threads: int, random_network: Networks) -> None:
    checkpoint = random_network(name)
    with ready(checkpoint, sides, threads) as program:
        assert error(program, checkpoint, noise(checkpoint, sides)) < MOST_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("sides", [(48, 48), (53, 39), (33, 70), (1, 1), (8, 65)])
def test_every_architecture_and_size_with_every_access_checked(
    name: str, sides: tuple[int, int], random_network: Networks
) -> None:
    """With one thread: a part that is shorter than a tile is computed with what is before it, to the same bits."""
    checkpoint = random_network(name)
    batch = noise(checkpoint, sides)
    with ready(checkpoint, sides, checked=True) as program:
        # Sums in yet another order are as far off, give or take: three times as far was seen. A wrong term is 1e-3 off.
        assert error(program, checkpoint, batch) < max(MOST_ERROR, 5 * torchs_error(checkpoint, batch))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_padding_rules(padding: str, random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2", padding=padding)
    with ready(checkpoint, (48, 48)) as program:
        assert error(program, checkpoint, noise(checkpoint, (48, 48))) < MOST_ERROR


def logits(program: Program, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the only output; in memory there is more behind it."""
    (only,) = program.outputs(program.run(batch))
    return only[:, :7]


def test_threads_with_programs_of_their_own_do_not_disturb_one_another(random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2")
    batch = noise(checkpoint, (48, 48), 20)
    with ready(checkpoint, (48, 48)) as one, ready(checkpoint, (48, 48), 2) as other:
        expected = logits(one, batch)
        found: list[npt.NDArray[np.float32]] = []
        workers = [
            threading.Thread(target=lambda each=each: found.append(logits(each, batch))) for each in (one, other)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for answers in found:
        np.testing.assert_array_equal(answers, expected)


@pytest.mark.parametrize(
    ("name", "sides"), [("mobilenet_v2", (48, 48)), ("mobilenet_v3_small", (48, 48)), ("mobilenet_v1", (40, 300))]
)
def test_kernels_take_the_scratch_memory_that_was_planned(
    name: str, sides: tuple[int, int], random_network: Networks
) -> None:
    """To the byte: every kernel alone, and so the program."""
    checkpoint = random_network(name)
    machine = host().machine
    network = lower(resized(checkpoint.card.plan, sides), folded(checkpoint), machine)
    with ready(checkpoint, sides) as program:
        taken = []
        steps, batch = int(program._program[1]), noise(checkpoint, sides, 1)
        for index, call in enumerate(network.calls):
            program._program[[1, 4]] = steps + 16 * index, 1  # this step and no other
            program._scratch[0, 24:32] = 0
            program.run(batch)
            taken.append(int(program._scratch[0, 24:32].view(np.uint64)[0]))
            assert taken[-1] == scratch_bytes([call.kernel], machine), call.kernel
        assert max(taken) == program.scratch_bytes


def test_machine_code_is_made_once(
    random_network: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = random_network("mobilenet_v1")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    with ready(checkpoint, (16, 16)) as program:
        kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "engine").glob("*.so")}
        answers = logits(program, noise(checkpoint, (16, 16)))
    assert len(kept) == 1
    assert "compiling" in capsys.readouterr().err
    with ready(checkpoint, (16, 16)) as program:
        np.testing.assert_array_equal(logits(program, noise(checkpoint, (16, 16))), answers)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "engine").glob("*.so")} == kept
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("extent", "unit", "threads"), [(49, 7, 2), (7, 1, 4), (3, 1, 8), (10, 4, 3), (1, 1, 1)])
def test_cuts_cover_everything_once(extent: int, unit: int, threads: int) -> None:
    parts = cuts(extent, unit, threads)
    assert [index for start, count in parts for index in range(start, start + count)] == list(range(extent))
    assert all(start % unit == 0 for start, _ in parts)
