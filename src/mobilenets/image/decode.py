"""Read picture files of every common kind into one form: upright, 8 bits, grey or RGB."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mobilenets.errors import InputError

# Twice Pillow's own Image.MAX_IMAGE_PIXELS: the size beyond which Pillow itself refuses a file as a decompression bomb.
PIXEL_LIMIT = 178_956_970

# What is read. Others are left out on purpose: EPS and PDF start other programs, TGA has no signature to know it by.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO")
# The usual endings of those formats, in lower case.
SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)

# EXIF tag 0x0112 and what brings each of its values upright (EXIF 2.32, section 4.6.4, table 4).
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})

# Python's warning filters are one list for all threads, so only one thread at a time may silence Pillow.
_quiet_lock = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself before its pixels are decoded.

    Height and width are those of the upright picture; `grey` means one channel, without colour or palette.
    """

    format: str
    height: int
    width: int
    grey: bool


def decode(
    source: Path | bytes,
    *,
    channels: int = 3,
    name: str | None = None,
    pixel_limit: int = PIXEL_LIMIT,
    at_least: int | None = None,
) -> NDArray[np.uint8]:
    """Decode one picture, upright, to uint8 (H, W, channels): RGB where `channels` is 3, grey where it is 1.

    EXIF orientation is applied; CMYK and palettes become RGB; 16-bit values are scaled to 8 (65535 is 255); alpha is
    laid on white; of an animation the first frame is taken. Colour profiles are not applied. With `at_least`, a JPEG
    may come out at 1/2, 1/4 or 1/8 of its size, which is several times faster, as long as its short side keeps that
    many pixels; its pixels then differ a little from a full decode followed by a resize.

    Raises InputError, naming the file (or `name`), for what is not a picture, truncated files and more than
    `pixel_limit` pixels (178,956,970; Pillow's own limit holds as well).
    """
    if channels not in (1, 3):
        raise InputError(f"a picture is decoded to 1 or 3 channels, not {channels}")
    label = _label(source, name)
    with _reading(label), _opened(source, label, pixel_limit) as image:
        if at_least is not None:
            _reduce(image, at_least)
        upright = _upright(_loaded(image))
        return _to_array(_eight_bits(upright), channels)


def examine(
    source: Path | bytes, *, pixels: bool, name: str | None = None, pixel_limit: int = PIXEL_LIMIT
) -> tuple[Header, NDArray[np.uint8] | None]:
    """Read a picture's format and upright size, and with `pixels` also decode it: grey as 1 channel, all else as 3.

    Raises InputError as `decode` does; without `pixels`, what is wrong behind the header goes unseen.
    """
    label = _label(source, name)
    with _reading(label), _opened(source, label, pixel_limit) as image:
        width, height = image.size
        grey = image.mode in _GREY_MODES and "transparency" not in image.info
        if pixels:
            array = _to_array(_eight_bits(_upright(_loaded(image))), 1 if grey else 3)
            return Header(image.format or "", array.shape[0], array.shape[1], grey), array
        # Pillow gives a TIFF's size upright; a PNG may keep its EXIF block behind the pixels, which would be decoded.
        if image.format not in ("PNG", "TIFF") and _orientation(image) >= 5:
            width, height = height, width
        return Header(image.format or "", height, width, grey), None


def _label(source: Path | bytes, name: str | None) -> str:
    return name or ("picture" if isinstance(source, bytes) else str(source))


@contextmanager
def _reading(label: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into one InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{label}: too large to decode in the memory there is: make it smaller") from None
    except Exception as error:  # noqa: BLE001 - decoders of broken files raise anything: SyntaxError, struct.error...
        _refuse(label, error)


def _refuse(label: str, error: Exception) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{label}: no such file: check the path") from None
    if isinstance(error, IsADirectoryError):
        raise InputError(f"{label}: is a folder: name a picture file") from None
    if isinstance(error, PermissionError):
        raise InputError(f"{label}: may not be read: check its permissions") from None
    if isinstance(error, Image.DecompressionBombError):
        raise InputError(f"{label}: more pixels than the limit of {PIXEL_LIMIT:,}: make the picture smaller") from None
    if isinstance(error, UnidentifiedImageError):
        reason = "not a picture in a format that is read here"
    else:
        first_line = next(iter(str(error).splitlines()), "")
        reason = f"broken picture ({first_line or type(error).__name__})"
    raise InputError(f"{label}: {reason}: replace or remove it") from None


@contextmanager
def _opened(source: Path | bytes, label: str, pixel_limit: int) -> Iterator[Image.Image]:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        if not stream.read(1):
            raise InputError(f"{label}: empty file: replace or remove it")
        stream.seek(0)
        with _quiet():
            image = Image.open(stream, formats=_formats())
        with image:
            width, height = image.size
            if width * height > pixel_limit:
                raise InputError(
                    f"{label}: {width} x {height} pixels are more than the limit of {pixel_limit:,}: make it smaller"
                )
            yield image


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's remarks on odd metadata and on large pictures under the limit; one thread at a time."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS which this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reduce(image: Image.Image, at_least: int) -> None:
    """Ask the JPEG decoder for the smallest of its scales that keeps the short side at `at_least` or more."""
    short = min(image.size)
    if short > at_least:
        width, height = image.size
        image.draft(None, (max(1, width * at_least // short), max(1, height * at_least // short)))


def _loaded(image: Image.Image) -> Image.Image:
    if image.format == "TIFF":  # reads tags, and turns the picture upright itself, while loading
        with _quiet():
            image.load()
    else:
        image.load()
    return image


def _orientation(image: Image.Image) -> int:
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return 1
    with _quiet():
        try:
            value = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # noqa: BLE001 - a broken EXIF block, whatever it raises, leaves the pixels readable
            return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring any mode to L or RGB: wide values scaled down, alpha laid on white."""
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit values beyond 0..65535")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        levels = np.asarray(image)
        if not (levels.min() >= 0 and levels.max() <= 1):  # also refuses NaN
            raise ValueError("floating-point values beyond 0..1")
        return Image.fromarray(np.rint(levels * 255).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return _in_mode(image, "L" if image.mode in ("L", "1") else "RGB")


def _to_array(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    pixels = np.array(_in_mode(image, "L" if channels == 1 else "RGB"))
    return pixels[:, :, np.newaxis] if channels == 1 else pixels


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # convert() copies even where nothing changes
