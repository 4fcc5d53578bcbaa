"""What a network in C pays for little memory: streamed, stage by stage, and layer by layer, beside ONNX Runtime.

    python -m benchmarks.native MODEL.int8.safetensors [rounds]

One thread, one picture, all in one process, taking turns; the three in C are compiled here, and their answers are
those of the reference to the bit before anything is timed. Writes benchmarks/results/native.json.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.environment import Figure, write
from mobilenets.checkpoint import Checkpoint
from mobilenets.checkpoint import load as load_checkpoint
from mobilenets.engine import reference
from mobilenets.engine.memory import MODES, Mode
from mobilenets.formats import native_build
from mobilenets.formats.native_file import to_native
from mobilenets.formats.onnx_file import to_onnx
from mobilenets.image.preprocess import normalize

Run = Callable[[], None]
WARM_UP = 3


def main() -> None:
    """Time all four, print a table, and write it down."""
    checkpoint = load_checkpoint(Path(sys.argv[1]))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    height, width = checkpoint.card.resolution
    picture = np.random.default_rng(0).integers(0, 256, (height, width, checkpoint.card.in_channels), dtype=np.uint8)
    with TemporaryDirectory() as temporary:
        runs: dict[str, Run] = {}
        arenas: dict[str, int] = {}
        for mode in MODES:
            runs[mode], arenas[mode] = compiled(checkpoint, mode, picture, Path(temporary) / mode)
        times = interleaved({**runs, "ONNX Runtime": peer(checkpoint, picture)}, rounds)
    medians = {name: median(found) for name, found in times.items()}
    fastest = min(medians[mode] for mode in MODES)
    for name, found in times.items():
        memory = f"{arenas[name]:>11,}" if name in arenas else " " * 11
        print(f"{name:<14} {memory}  median {medians[name]:7.2f} ms  minimum {min(found):7.2f} ms")
    what = f"{checkpoint.card.arch.name} {checkpoint.card.width:g} at {height}, int8, 1 thread"
    figures = [Figure(f"{what}: {name}", round(each, 2), "ms", "reported") for name, each in medians.items()]
    slower = 100 * (medians["streamed"] / fastest - 1)
    figures.append(Figure(f"{what}: streamed against the fastest in C", round(slower, 1), "% slower", "25 or less"))
    beside = medians["streamed"] / medians["ONNX Runtime"]
    figures.append(Figure(f"{what}: streamed", round(beside, 2), "times ONNX Runtime's", "reported"))
    print(f"streamed: {slower:.1f} % slower than the fastest in C, {beside:.2f} times ONNX Runtime's time")
    details = {"arena_bytes": arenas, "minimum_ms": {name: round(min(found), 3) for name, found in times.items()}}
    print(write("native", figures, {**details, "rounds": rounds, "compiler": native_build.compiler(HERE).name}))


def compiled(checkpoint: Checkpoint, mode: Mode, picture: np.ndarray, folder: Path) -> tuple[Run, int]:
    """Return what runs a network in C, once its answer is proved, and the bytes it computes in."""
    folder.mkdir()
    for file, content in to_native(checkpoint, "net", version="1", mode=mode).items():
        (folder / file).write_bytes(content)
    library = ctypes.CDLL(str(native_build.build(folder, "net", HERE, "int8")[1]))
    library.net_arena_bytes.restype = ctypes.c_size_t
    size = library.net_arena_bytes()
    arena, logits = np.zeros(-(-size // 4), np.uint32), np.zeros((1, len(checkpoint.card.labels)), np.float32)
    kept = (arena, picture, logits)  # by the function, as long as it may be called

    def run() -> None:
        at = [ctypes.c_void_p(each.ctypes.data) for each in kept]
        assert library.net_run(at[0], None, at[1], at[2]) == 0

    run()
    meant = reference.run(checkpoint, normalize(picture[np.newaxis], checkpoint.card.preprocess))
    np.testing.assert_array_equal(logits, meant)
    return run, size


def peer(checkpoint: Checkpoint, picture: np.ndarray) -> Run:
    """Return what runs the same network in ONNX Runtime, normalized before."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(checkpoint), options, providers=["CPUExecutionProvider"])
    batch = {session.get_inputs()[0].name: normalize(picture[np.newaxis], checkpoint.card.preprocess)}

    def run() -> None:
        session.run(None, batch)

    return run


def interleaved(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of every run, by name; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM_UP + rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - begin))
    return times


HERE = native_build.here()

if __name__ == "__main__":
    main()
