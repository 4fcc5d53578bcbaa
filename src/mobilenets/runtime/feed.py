"""Pictures to logits: what every runtime needs around it, written once.

Pictures are prepared (decoded, resized, cropped) by a few threads while the runtime computes; the order stays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mobilenets.image.preprocess import normalize
from mobilenets.runtime import Predictor

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST_WORKERS = 4  # decoding is a few times quicker than a MobileNet on the same core: more would only take memory


def logits_of(predictor: Predictor, fitted: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Compute the logits, float32 (N, classes), of pictures as `image.preprocess.fit` leaves them: uint8 (H, W, C)."""
    if not fitted:
        return np.zeros((0, len(predictor.card.labels)), np.float32)
    (logits,) = outputs_of(predictor, fitted)
    return logits


def outputs_of(predictor: Predictor, fitted: Sequence[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.float32], ...]:
    """Compute what a model puts out, as `Predictor.run` does, of at least one picture as `fit` leaves it."""
    batch = np.stack(fitted)
    return predictor.run(batch if predictor.pictures else normalize(batch, predictor.card.preprocess))


def prepared(items: Iterable[Item], prepare: Callable[[Item], Made], ahead: int) -> Iterator[Made]:
    """Yield `prepare(item)` for each item, in order, computed by a few threads up to `ahead` items in advance.

    Pillow lets other threads run while it decodes and resizes. What `prepare` raises is raised here, at its item's
    turn.
    """
    waiting: deque[Future[Made]] = deque()
    remaining = iter(items)
    with ThreadPoolExecutor(min(MOST_WORKERS, os.cpu_count() or 1), thread_name_prefix="pictures") as pool:
        try:
            for item in islice(remaining, ahead):
                waiting.append(pool.submit(prepare, item))
            while waiting:
                made = waiting.popleft().result()
                for item in islice(remaining, 1):
                    waiting.append(pool.submit(prepare, item))
                yield made
        finally:
            for future in waiting:
                future.cancel()


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
