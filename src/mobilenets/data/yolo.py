"""YOLO's text: one .txt a picture, a line `class x y width height` in shares of its sides for each box."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilenets.data.annotations import FoundBoxes, Mark, MarkedPicture, pictures_in, relative_name
from mobilenets.data.folder import part_named
from mobilenets.data.labels import tidy
from mobilenets.data.pictures import Source
from mobilenets.errors import InputError, MissingExtraError

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels")
_PARTS = ("train", "val", "test")


def yolo_files(folder: Path) -> Path | None:
    """Return what names the classes of a YOLO folder: a .yaml with `names`, or classes.txt; None if it is none."""
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        if b"names" in path.read_bytes()[:100_000]:
            return path
    for name in _NAME_FILES:
        if (folder / name).is_file() and _has_labels(folder):
            return folder / name
    return None


def _has_labels(folder: Path) -> bool:
    return (folder / "labels").is_dir() or any((path / "labels").is_dir() for path in folder.iterdir())


def find_in_yolo(names_file: Path) -> FoundBoxes:
    """Find the pictures and boxes that a .yaml, or a list of names in a YOLO folder, belongs to.

    Labels lie in labels/ where pictures lie in images/, or beside them. A picture without a label file has no boxes,
    as YOLO means it. Raises InputError where the .yaml cannot be read or names no folder that is there.
    """
    problems: list[str] = []
    if names_file.suffix in (".yaml", ".yml"):
        names, places, root = _from_yaml(names_file)
    else:
        lines = names_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        names = {index: tidy(line) for index, line in enumerate(line for line in lines if line.strip())}
        root = names_file.parent if names_file.parent.name != "labels" else names_file.parent.parent
        places = _conventional(root)
    count = max(names, default=-1) + 1
    labels = tuple(names.get(index, str(index)) for index in range(count))
    if len(set(labels)) < len(labels):
        raise InputError(f"{names_file}: two classes of one name: rename one of them")
    parts = {}
    for part, where in places.items():
        pictures = [path for place in where for path in _pictures(place, root)]
        parts[part] = tuple(_marked(path, root, labels, problems) for path in dict.fromkeys(pictures))
    found = {part: tuple(each for each in pictures if each is not None) for part, pictures in parts.items()}
    return FoundBoxes(found, tuple(problems), labels)


def _from_yaml(path: Path) -> tuple[dict[int, str], dict[str, list[Path]], Path]:
    """Return class names by index, the places of each part, and the data set's folder."""
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "detection") from None
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not readable YAML ({reason}): correct it") from None
    names = _names(document, path)
    stated = document.get("path")
    root = path.parent
    if isinstance(stated, str):
        root = next((each for each in (path.parent / stated, Path(stated)) if each.is_dir()), path.parent)
    places: dict[str, list[Path]] = {}
    for part in _PARTS:
        given = document.get(part) if part != "val" else document.get("val", document.get("valid"))
        entries = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        found = [place for entry in entries if (place := _place(str(entry), root, path.parent)) is not None]
        if found:
            places[part] = found
        elif entries and part == "train":
            raise InputError(f"{path}: {part}: {entries[0]}: no such folder: correct it")
    return names, places or _conventional(root), path.parent


def _names(document: Any, path: Path) -> dict[int, str]:
    names = document.get("names") if isinstance(document, Mapping) else None
    if isinstance(names, list) and names:
        return {index: tidy(str(name)) for index, name in enumerate(names)}
    if isinstance(names, Mapping) and names and all(isinstance(key, int) and 0 <= key < 100_000 for key in names):
        return {int(key): tidy(str(name)) for key, name in names.items()}
    raise InputError(f"{path}: names must be a list of classes, or class numbers with their names")


def _place(entry: str, root: Path, beside: Path) -> Path | None:
    """Return the folder or list that an entry means; Roboflow writes ../train/images for what lies in train/images."""
    for base in (root, beside):
        for spelling in (entry, entry.removeprefix("../")):
            if (base / spelling).exists():
                return base / spelling
    return None


def _conventional(root: Path) -> dict[str, list[Path]]:
    """Return where parts lie by custom: images/train, train/images, or images/ for everything."""
    places: dict[str, list[Path]] = {}
    images = root / "images"
    for folder in sorted(images.iterdir()) if images.is_dir() else []:
        part = part_named(folder.name)
        if part is not None and folder.is_dir():
            places.setdefault(part, [folder])
    for folder in sorted(root.iterdir()):
        part = part_named(folder.name)
        if part is not None and (folder / "images").is_dir():
            places.setdefault(part, [folder / "images"])
    return places or {"train": [images if images.is_dir() else root]}


def _pictures(place: Path, root: Path) -> list[Path]:
    if place.is_file():  # a list of pictures, one a line
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
        candidates = [(root / line, place.parent / line) for line in lines if line]
        return [next((path for path in pair if path.is_file()), pair[0]) for pair in candidates]
    return pictures_in(place)


def _label_file(picture: Path) -> Path:
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
        other = Path(*parts).with_suffix(".txt")
        if other.is_file() or other.parent.is_dir():
            return other
    return picture.with_suffix(".txt")


def _marked(picture: Path, root: Path, labels: tuple[str, ...], problems: list[str]) -> MarkedPicture | None:
    name = relative_name(picture, root)
    if not picture.is_file():
        problems.append(f"{name}: no such file: add it or strike it from the list (skipped)")
        return None
    path = _label_file(picture)
    marks: list[Mark] = []
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            problems.append(f"{relative_name(path, root)}: not a readable text file: write it anew (skipped)")
            return None
        filled = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
        for number, fields in filled:
            mark = _mark(fields, f"{relative_name(path, root)}, line {number}", labels, problems)
            if mark is not None:
                marks.append(mark)
        if filled and not marks:
            problems.append(f"{name}: none of its boxes can be read, so what is on it is unknown (skipped)")
            return None
    return MarkedPicture(name, Source(picture), tuple(marks), relative=True)


def _mark(fields: list[str], where: str, labels: tuple[str, ...], problems: list[str]) -> Mark | None:
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        problems.append(f"{where}: {len(fields)} fields, not class x y width height: correct or remove it (skipped)")
        return None
    try:
        number, *values = (float(field) for field in fields)
    except ValueError:
        problems.append(f"{where}: not all numbers ({' '.join(fields)[:60]}): correct or remove it (skipped)")
        return None
    if not number.is_integer() or not 0 <= number < len(labels):
        problems.append(f"{where}: class {fields[0]} is none of the {len(labels)} named ones: correct it (skipped)")
        return None
    if len(values) == 4:
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:  # an outline, x y x y ...
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    if max(abs(value) for value in corners) > 10:
        problems.append(f"{where}: in pixels, it seems: YOLO's numbers are shares of the sides, 0 to 1 (skipped)")
        return None
    return Mark(where, labels[int(number)], corners)
