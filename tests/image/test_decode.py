from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mobilenets.errors import InputError
from mobilenets.image.decode import decode, examine

Pixels = NDArray[np.uint8]

# How a picture is stored under each EXIF orientation, from the standard's words ("row 0 is the visual right-hand side,
# column 0 the visual top" ...), as operations on the upright array.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def gradient(height: int = 24, width: int = 40) -> Pixels:
    """A picture without symmetry, smooth enough to survive JPEG."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = rows * 255 // height, columns * 255 // width, (rows + columns) * 255 // (height + width)
    return np.stack(planes, axis=-1).astype(np.uint8)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(file_format: str, orientation: int) -> None:
    upright = gradient()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    settings: dict[str, dict[str, object]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    content = saved(stored, file_format, exif=exif, **settings.get(file_format, {}))
    picture = decode(content)
    assert picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).max() <= (12 if file_format == "JPEG" else 0)
    header, pixels = examine(content, pixels=True)
    assert (header.height, header.width) == upright.shape[:2]
    assert pixels is not None
    assert (pixels == picture).all()


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "TIFF"])
def test_a_header_alone_tells_the_upright_size(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    header, pixels = examine(saved(Image.fromarray(gradient(24, 40)), file_format, exif=exif), pixels=False)
    assert (header.height, header.width) == (40, 24)
    assert pixels is None


def test_broken_exif_does_not_cost_the_picture() -> None:
    content = saved(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert decode(content).shape == (24, 40, 3)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 128, 129, 32768, 65406, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 254, 255]  # value / 257, to the nearest
    for file_format in ("PNG", "TIFF", "PPM"):
        picture = decode(saved(Image.fromarray(values), file_format), channels=1)
        assert picture[0, :, 0].tolist() == expected, file_format


def test_floats_are_scaled_and_refused_beyond_one() -> None:
    picture = decode(saved(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"), channels=1)
    assert picture[0, :, 0].tolist() == [0, 128, 255]
    for bad in (1.5, -0.1, float("nan")):
        with pytest.raises(InputError, match="floating-point values"):
            decode(saved(Image.fromarray(np.array([[0.0, bad]], np.float32)), "TIFF"))


def test_alpha_lies_on_white() -> None:
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [0, 0, 0, 128]]], np.uint8)
    assert decode(saved(Image.fromarray(pixels), "PNG"))[0].tolist() == [
        [200, 100, 0],
        [255, 255, 255],
        [127, 127, 127],
    ]
    grey = np.array([[[50, 255], [50, 0]]], np.uint8)
    assert decode(saved(Image.fromarray(grey, "LA"), "PNG"), channels=1)[0, :, 0].tolist() == [50, 255]


def test_a_transparent_palette_lies_on_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for index in range(3):
        image.putpixel((index, 0), index)
    for transparency in (1, bytes([255, 0, 255])):
        picture = decode(saved(image, "PNG", transparency=transparency))
        assert picture[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert np.abs(decode(saved(image, "JPEG", quality=95))[8, 8].astype(int) - [255, 0, 0]).max() <= 4


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    picture = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (picture == [255, 0, 0]).all()


def test_one_bit_and_grey_become_grey_or_rgb() -> None:
    content = saved(Image.fromarray(np.array([[True, False]])), "PNG")
    assert decode(content, channels=1)[0, :, 0].tolist() == [255, 0]
    assert decode(content)[0].tolist() == [[255, 255, 255], [0, 0, 0]]
    assert examine(content, pixels=False)[0].grey


def test_colour_to_grey_is_luma() -> None:
    content = saved(Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)), "PNG")
    assert decode(content, channels=1)[0, :, 0].tolist() == [76, 150, 29]  # 255 times 0.299, 0.587, 0.114


def test_the_array_may_be_written_to() -> None:
    decode(saved(Image.fromarray(gradient()), "PNG"))[0, 0] = 0


def test_a_large_jpeg_may_come_out_smaller_but_not_below_the_limit() -> None:
    content = saved(Image.fromarray(gradient(600, 900)), "JPEG")
    assert decode(content, at_least=300).shape == (300, 450, 3)
    assert decode(content, at_least=299).shape == (300, 450, 3)
    assert decode(content, at_least=301).shape == (600, 900, 3)
    assert decode(content, at_least=75).shape == (75, 113, 3)
    assert decode(content, at_least=5000).shape == (600, 900, 3)
    assert decode(saved(Image.fromarray(gradient(600, 900)), "PNG"), at_least=75).shape == (600, 900, 3)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its data does not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_decompression_bombs_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(InputError, match=r"bomb\.png: more pixels than the limit of 178,956,970"):
        decode(png_of_size(60_000, 60_000), name="bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png: 11000 x 10000 pixels are more than the limit of 100,000,000"):
        decode(png_of_size(11_000, 10_000), name="bomb.png", pixel_limit=100_000_000)  # Pillow would only warn
    with pytest.raises(InputError, match="40 x 24 pixels are more than the limit of 959"):
        decode(saved(Image.fromarray(gradient()), "PNG"), pixel_limit=959)
    assert decode(saved(Image.fromarray(gradient()), "PNG"), pixel_limit=960).shape == (24, 40, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused_and_named(file_format: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"cut.{file_format.lower()}"
    content = saved(Image.fromarray(noise), file_format)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"cut\.{file_format.lower()}: .*: replace or remove it$"):
        decode(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404</html>", "not a picture in a format that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a format that is read here"),
    ],
)
def test_what_is_no_picture_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.jpg: {reason}: replace or remove it"):
        decode(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg: no such file: check the path"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match="is a folder: name a picture file"):
        decode(tmp_path)


def test_other_channel_counts_are_refused() -> None:
    with pytest.raises(InputError, match="1 or 3 channels, not 4"):
        decode(b"", channels=4)


VALID = [
    saved(
        Image.fromarray(gradient(9, 13)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06"
    ),
    saved(Image.fromarray(gradient(9, 13)), "PNG"),
    saved(Image.fromarray(gradient(9, 13)).convert("P"), "GIF"),
    saved(Image.fromarray(gradient(9, 13)), "TIFF", compression="tiff_lzw"),
    saved(Image.fromarray(gradient(9, 13)), "BMP"),
    saved(Image.fromarray(gradient(9, 13)), "WEBP"),
    saved(Image.fromarray(gradient(9, 13)), "PPM"),
]


@given(
    base=st.sampled_from([b"", *VALID]),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 4000),
    noise=st.binary(max_size=40),
)
def test_malformed_files_give_a_picture_or_one_line(
    base: bytes, changes: list[tuple[int, int]], end: int, noise: bytes
) -> None:
    content = bytearray(base + noise)
    for position, value in changes:
        if content:
            content[position % len(content)] = value
    content = content[: end if end < len(content) else None]
    try:
        picture = decode(bytes(content), name="some/picture.jpg")
    except InputError as error:
        message = str(error)
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.size > 0
        return
    assert message.startswith("some/picture.jpg: ")
    assert "\n" not in message


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    content = VALID[0]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(decode, [content] * 200))
    assert list(warnings.filters) == before
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_real_photographs(shared_data: Path) -> None:
    for path in sorted((shared_data / "images").iterdir()):
        picture = decode(path)
        assert min(picture.shape[:2]) > 100
        assert picture.std() > 10, "a photograph has contrast"
