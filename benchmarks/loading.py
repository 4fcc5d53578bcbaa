"""How many pictures a second reach training, with nothing done to them there.

    python -m benchmarks.loading PHOTOGRAPHS [seconds]

PHOTOGRAPHS is a folder of class folders. Small pictures are noise of CIFAR-10's shape, in memory. Every case runs for
about `seconds` (5), after one batch that is not counted. `cpu` figures divide by this process's CPU time instead of the
wall's, which other work on the machine stretches; they leave out worker processes, so those cases have none.
"""

from __future__ import annotations

import sys
import time
from itertools import count

import numpy as np

from benchmarks.environment import Figure, write
from mobilenets.data import Batches, Pictures, batches, open_data
from mobilenets.data.pictures import ArrayPictures
from mobilenets.image import Augmentation, Preprocess

CROP = Augmentation("crop", flip=True)
PHOTO = Augmentation("photo", flip=True)
VARIED = Augmentation("photo", flip=True, policy="trivial", erase=0.1)


def main() -> None:
    """Measure all cases and write the figures."""
    folder = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    held, files = open_data(folder).train, open_data(folder, keep_bytes=0).train
    small, large = Preprocess(32, 32), Preprocess(224, 224, resize=256)
    cases = {
        "32x32 in memory, crop and mirror": serve(small_pictures(), small, CROP, 128),
        "32x32 in memory, crop, mirror, TrivialAugment": serve(
            small_pictures(), small, Augmentation("crop", flip=True, policy="trivial"), 128
        ),
        "photographs to 224, random crop and mirror, from JPEG": serve(files, large, PHOTO, 32),
        "photographs to 224, random crop and mirror, from memory": serve(held, large, PHOTO, 32),
        "photographs to 224, TrivialAugment and erasing too, from memory": serve(held, large, VARIED, 32),
        "photographs to 224 as in evaluation, from JPEG": serve(files, large, None, 32),
    }
    wanted = {"32x32 in memory, crop and mirror": "over 10,000", **dict.fromkeys(list(cases)[2:4], "")}
    figures, details = [], {}
    for what, served in cases.items():
        by_wall, by_cpu = measure(served, seconds)
        if what in wanted:
            figures.append(Figure(f"loading, {what}", round(by_cpu), "pictures/s of one core", wanted[what]))
        details[what] = {"per_second_of_wall": round(by_wall), "per_second_of_cpu": round(by_cpu)}
        print(f"{what}: {by_cpu:,.0f} a second of CPU, {by_wall:,.0f} of wall")
    print(write("loading", figures, details))


def small_pictures() -> Pictures:
    """Return 10,000 pictures of noise, 32 x 32 x 3."""
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), np.uint8)
    return ArrayPictures(("a",), np.zeros(10_000, np.int64), tuple(map(str, range(10_000))), pixels)


def serve(pictures: Pictures, preprocess: Preprocess, augmentation: Augmentation | None, batch_size: int) -> Batches:
    """Return batches made in this process; small pictures are held, photographs stay as they are."""
    return batches(
        pictures,
        preprocess=preprocess,
        augmentation=augmentation,
        batch_size=batch_size,
        shuffle=True,
        workers=0,
        cache_bytes=0,
    )


def measure(served: Batches, seconds: float) -> tuple[float, float]:
    """Return pictures per second of wall time and of this process's CPU time."""
    pictures = 0
    start_wall = start_cpu = 0.0
    for epoch in count():
        for images, _ in served.epoch(epoch):
            if not start_wall:
                start_wall, start_cpu = time.perf_counter(), time.process_time()
                continue
            pictures += len(images)
            if time.perf_counter() - start_wall > seconds:
                return pictures / (time.perf_counter() - start_wall), pictures / (time.process_time() - start_cpu)
    raise AssertionError("epochs have no end")


if __name__ == "__main__":
    main()
