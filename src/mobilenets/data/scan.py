"""Look at every picture of a data set once, so that a broken one is known before training and not in its fifth hour.

Every header is read. The pixels are decoded as well where the files are few enough (`decode_bytes` in all, a matter of
seconds), or where a file does not end as its format does: a truncated JPEG has a sound header. What is decoded is kept
where all of it fits in `keep_bytes`, so that small data sets are decoded once and never again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.data.pictures import Source
from mobilenets.errors import InputError
from mobilenets.image.decode import Header, examine
from mobilenets.image.preprocess import with_channels

KEEP_BYTES = 1 << 30
DECODE_BYTES = 256 << 20  # about 2,500 photographs of 100 KB, or all of CIFAR-10: under ten seconds on one core

_TAIL_BYTES = 64
_WORTH_A_LINE = 20_000  # pictures; fewer take a few seconds, which need no explanation in a log
_ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}


@dataclass(frozen=True)
class Scan:
    """What a scan found: the usable sources by index, and one line for each of the others.

    `sizes` is the upright height and width of every usable picture, int64 (N, 2). `pixels` are the decoded pictures,
    each uint8 (H, W, channels), or one array (N, H, W, channels) where all have one size; None where they are too
    many to keep.
    """

    usable: NDArray[np.int64]
    sizes: NDArray[np.int64]
    channels: int
    pixels: tuple[NDArray[np.uint8], ...] | NDArray[np.uint8] | None
    problems: tuple[str, ...]


def scan(
    sources: Sequence[Source],
    names: Sequence[str],
    *,
    keep_bytes: int = KEEP_BYTES,
    decode_bytes: int = DECODE_BYTES,
) -> Scan:
    """Check all pictures and decode them where that is affordable; pictures are grey (1 channel) where all are."""
    problems: dict[int, str] = {}
    headers: dict[int, Header] = {}
    kept: dict[int, NDArray[np.uint8]] | None = {}
    kept_bytes = 0
    decode_all = sum(source.size_bytes() for source in sources) <= decode_bytes
    for index in followed(range(len(sources)), "looking at pictures"):
        try:
            header, picture = _examined(sources[index], names[index], decode=decode_all)
        except InputError as error:
            problems[index] = f"{error} (skipped)"
            continue
        headers[index] = header
        kept_bytes += header.height * header.width * (1 if header.grey else 3)
        if picture is None or kept_bytes > keep_bytes:
            kept = None
        elif kept is not None:
            kept[index] = picture
    channels = 1 if headers and all(header.grey for header in headers.values()) else 3
    usable = sorted(headers)
    return Scan(
        usable=np.array(usable, np.int64),
        sizes=np.array([(headers[index].height, headers[index].width) for index in usable], np.int64).reshape(-1, 2),
        channels=channels,
        pixels=None if kept is None else _together([with_channels(kept.pop(index), channels) for index in usable]),
        problems=tuple(problems[index] for index in sorted(problems)),
    )


def _together(pictures: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], ...] | NDArray[np.uint8]:
    if len({picture.shape for picture in pictures}) != 1:
        return tuple(pictures)
    whole = np.empty((len(pictures), *pictures[0].shape), np.uint8)
    pictures.reverse()
    for index in range(len(whole)):  # each is let go as it is copied: the set is never in memory twice
        whole[index] = pictures.pop()
    return whole


def _examined(source: Source, name: str, *, decode: bool) -> tuple[Header, NDArray[np.uint8] | None]:
    content = source.read()
    header, picture = examine(content, name=name, pixels=decode)
    if not decode and not _ends_well(content, header.format):
        examine(content, name=name, pixels=True)
    return header, picture


def _ends_well(content: Path | bytes, file_format: str) -> bool:
    """Tell whether a file ends as its format does; trailing zeros are common and harmless."""
    ending = _ENDINGS.get(file_format)
    if ending is None:
        return False
    if isinstance(content, bytes):
        tail = content[-_TAIL_BYTES:]
    else:
        with content.open("rb") as file:
            file.seek(max(0, content.stat().st_size - _TAIL_BYTES))
            tail = file.read()
    return tail.rstrip(b"\0").endswith(ending)


def followed(indices: Sequence[int], what: str) -> Iterator[int]:
    """Go through indices, with a progress bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        if len(indices) >= _WORTH_A_LINE:
            sys.stderr.write(f"{what}: {len(indices):,}\n")
        yield from indices
        return
    from rich.console import Console
    from rich.progress import track

    steps: Iterable[int] = track(indices, description=what, console=Console(stderr=True), transient=True)
    yield from steps
