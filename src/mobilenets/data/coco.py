"""COCO's JSON: one file a part, with `images`, `annotations` and `categories`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilenets.data.annotations import FoundBoxes, Mark, MarkedPicture, relative_name
from mobilenets.data.folder import part_named
from mobilenets.data.labels import tidy
from mobilenets.data.pictures import Source, located
from mobilenets.errors import InputError

_PLACES = (".", "annotations", "Annotations")
_SNIFFED_BYTES = 1 << 16


def coco_files(folder: Path) -> dict[str, Path]:
    """Return COCO's files in a folder by part; empty where there are none.

    They lie in the folder, in annotations/ or in train/, val/ and test/; their names, or their folders', say the part.
    Of several for one part, that of the boxes ("instances") is taken, else the first.
    """
    found: dict[str, Path] = {}
    places = [folder / place for place in _PLACES]
    places += [path for path in sorted(folder.iterdir()) if path.is_dir() and part_named(path.name)]
    for place in dict.fromkeys(places):
        for path in sorted(place.glob("*.json"), key=lambda each: ("instances" not in each.name, each.name)):
            part = _part_of(path, folder)
            if part not in found and is_coco(path):
                found[part] = path
    return found


def is_coco(path: Path) -> bool:
    """Say whether a file looks like COCO's: an object with `images` and `annotations`; its head and tail are read."""
    try:
        with path.open("rb") as file:
            text = file.read(_SNIFFED_BYTES)
            size = path.stat().st_size
            if size > 2 * _SNIFFED_BYTES:  # a large file may begin with all of its annotations
                file.seek(size - _SNIFFED_BYTES)
            text += file.read()
    except OSError:
        return False
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and sum(key in text for key in keys) >= (
        2 if size < 2 * _SNIFFED_BYTES else 1
    )


def _part_of(path: Path, root: Path) -> str:
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    parts = [part_named(word.rstrip("0123456789")) for word in words]
    parts += [part_named(path.parent.name) if path.parent != root else None, "train"]
    return next(part for part in parts if part is not None)


def find_in_coco(files: Mapping[str, Path], root: Path) -> FoundBoxes:
    """Find the pictures and boxes of COCO files by part; raises InputError for a file that is none.

    Classes are the categories by their id. Pictures are sought beside the file, in images/ and in folders named like
    the part. `iscrowd` is honoured.
    """
    problems: list[str] = []
    parts: dict[str, tuple[MarkedPicture, ...]] = {}
    labels: dict[str, None] = {}
    for part, path in files.items():
        document = _read(path)
        categories = _categories(document, path, problems)
        labels.update(dict.fromkeys(name for _, name in sorted(categories.items())))
        parts[part] = _pictures(document, path, root, part, categories, problems)
    return FoundBoxes(parts, tuple(problems), tuple(labels))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}): write it anew") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a COCO file: it must be an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise InputError(f"{path}: no list {key!r}: a COCO file has images, annotations and categories")
    return document


def _categories(document: Mapping[str, Any], path: Path, problems: list[str]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for number, item in enumerate(document["categories"], start=1):
        name = tidy(str(item.get("name", ""))) if isinstance(item, dict) else ""
        identity = item.get("id") if isinstance(item, dict) else None
        if not name or not isinstance(identity, int) or identity in categories:
            problems.append(f"{path.name}, category {number}: no id and name of its own: correct it (skipped)")
        else:
            categories[identity] = name
    if not categories:
        raise InputError(f"{path}: no categories: name the classes there")
    return categories


def _pictures(
    document: Mapping[str, Any],
    path: Path,
    root: Path,
    part: str,
    categories: Mapping[int, str],
    problems: list[str],
) -> tuple[MarkedPicture, ...]:
    images: dict[Any, Mapping[str, Any]] = {}
    found: dict[Any, Path] = {}
    taken: set[Path] = set()
    folders = _folders(path, root, part)
    for number, item in enumerate(document["images"], start=1):
        where = f"{path.name}, image {number}"
        name = item.get("file_name") if isinstance(item, dict) else None
        identity = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str) or not isinstance(identity, int | str):
            problems.append(f"{where}: no id and file_name: add them or remove it (skipped)")
            continue
        if identity in images:
            problems.append(
                f"{where}: its id {identity} is taken by {images[identity]['file_name']}: change it (skipped)"
            )
            continue
        images[identity] = item
        picture = located(folders, name)
        if picture is None:
            problems.append(f"{where}: {name}: no such file: add it or remove the entry (skipped)")
        elif picture in taken:
            problems.append(f"{where}: {name} is there twice: remove one of them (skipped)")
        else:
            found[identity] = picture
            taken.add(picture)
    marks, lost = _marks(document["annotations"], path.name, images, categories, problems)
    pictures = []
    for identity, picture in found.items():
        name = relative_name(picture, root)
        if identity in lost and not marks[identity]:
            problems.append(f"{name}: none of its boxes can be used, so what is on it is unknown (skipped)")
            continue
        size = _size(images[identity])
        pictures.append(MarkedPicture(name, Source(picture), tuple(marks[identity]), size=size))
    return tuple(pictures)


def _folders(path: Path, root: Path, part: str) -> list[Path]:
    """Return where pictures may be: beside the file, in images/, and in folders of the part's name."""
    tops = [path.parent, root]
    named = [each for top in tops for each in sorted(top.iterdir()) if each.is_dir()]
    fitting = [each for each in named if part_named(each.name.lower().rstrip("0123456789")) == part]
    inner = [top / "images" for top in tops]
    deeper = [each for top in inner if top.is_dir() for each in sorted(top.iterdir()) if each.is_dir()]
    fitting += [each for each in deeper if part_named(each.name.lower().rstrip("0123456789")) == part]
    own = path.parent / path.stem.removeprefix("instances_")
    return list(dict.fromkeys([path.parent, own, *fitting, *(each / "images" for each in fitting), *inner, root]))


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _marks(
    annotations: Sequence[Any],
    file: str,
    images: Mapping[Any, Mapping[str, Any]],
    categories: Mapping[int, str],
    problems: list[str],
) -> tuple[dict[Any, list[Mark]], set[Any]]:
    """Return the boxes by image, and the images that lost one."""
    marks: dict[Any, list[Mark]] = defaultdict(list)
    lost: set[Any] = set()
    for number, item in enumerate(annotations, start=1):
        where = f"{file}, annotation {number}"
        identity = item.get("image_id") if isinstance(item, dict) else None
        if not isinstance(identity, int | str) or identity not in images:
            problems.append(f"{where}: of image {identity!r}, which is not there: correct or remove it (skipped)")
            continue
        where = f"{where} ({images[identity]['file_name']})"
        category = item.get("category_id")
        name = categories.get(category) if isinstance(category, int) else None
        box = item.get("bbox")
        if name is None:
            problems.append(f"{where}: category {category!r} is not among the categories: add it (skipped)")
        elif not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            problems.append(f"{where}: bbox must be four numbers, x, y, width, height, not {str(box)[:60]} (skipped)")
        else:
            x, y, width, height = (float(value) for value in box)
            area = float(item["area"]) if _is_number(item.get("area")) else None
            crowd = item.get("iscrowd", 0) in (1, True)
            marks[identity].append(Mark(where, name, (x, y, x + width, y + height), crowd=crowd, area=area))
            continue
        lost.add(identity)
    return marks, lost


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
