"""A table of boxes: one row each with `file, label, x1, y1, x2, y2`, in pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from mobilenets.data.annotations import FoundBoxes, Mark, MarkedPicture
from mobilenets.data.csv import FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, column_of, read_rows
from mobilenets.data.folder import part_named
from mobilenets.data.labels import index_labels, is_index, tidy
from mobilenets.data.pictures import Source, located
from mobilenets.errors import InputError

_CORNERS = (
    ("x1", "xmin", "x_min", "left"),
    ("y1", "ymin", "y_min", "top"),
    ("x2", "xmax", "x_max", "right"),
    ("y2", "ymax", "y_max", "bottom"),
)
_CROWD_COLUMNS = ("crowd", "iscrowd", "is_crowd", "difficult")


def is_box_csv(path: Path) -> bool:
    """Say whether a file is a CSV with columns for the corners of boxes."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(10_000).lower()
    except OSError:
        return False
    headings = {name.strip().strip('"') for name in first.replace(";", ",").replace("\t", ",").split(",")}
    return all(headings & set(names) for names in _CORNERS)


def find_in_box_csv(path: Path) -> FoundBoxes:
    """Find the pictures and boxes of a CSV; raises InputError where it cannot be read or names no existing file.

    Files are relative to the CSV, to the folder `images` beside it, or absolute. A row with a file alone stands for a
    picture without boxes. Columns `split` and `crowd` are read where there are any. Labels that are all whole numbers
    are class indices from 0.
    """
    rows, columns = read_rows(path)
    file_column = column_of(columns, FILE_COLUMNS, path, "a picture's file")
    label_column = column_of(columns, LABEL_COLUMNS, path, "its label")
    corners = [column_of(columns, names, path, f"a corner, {names[0]}") for names in _CORNERS]
    split_column = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    crowd_column = next((columns[name] for name in _CROWD_COLUMNS if name in columns), None)
    problems: list[str] = []
    pictures: dict[Path, tuple[str, str]] = {}  # name and part
    marks: dict[Path, list[Mark]] = defaultdict(list)
    lost: set[Path] = set()
    for line, row in rows:
        where = f"{path.name} line {line}"
        row = [*row, *[""] * (len(columns) - len(row))]
        name = row[file_column].strip()
        picture = located((path.parent, path.parent / "images"), name)
        part = "train" if split_column is None else part_named(row[split_column])
        if picture is None:
            reason = f"{name}: no such file: correct or remove it" if name else "no file: complete or remove it"
            problems.append(f"{where}: {reason} (skipped)")
            continue
        if part is None or pictures.setdefault(picture, (name, part))[1] != part:
            reason = "its part is neither train, val nor test" if part is None else "in two parts"
            problems.append(f"{where}: {name}: {reason}: correct it (skipped)")
            continue
        texts = [row[column].strip() for column in corners]
        label = tidy(row[label_column])
        if not label and not any(texts):
            continue
        crowd = crowd_column is not None and row[crowd_column].strip().lower() in ("1", "true", "yes")
        mark = _mark(f"{where} ({name})", label, texts, crowd=crowd, problems=problems)
        if mark is None:
            lost.add(picture)
        else:
            marks[picture].append(mark)
    if not pictures:
        first = f" ({problems[0]})" if problems else ""
        raise InputError(f"{path}: no row names an existing picture{first}: files are relative to the CSV's folder")
    return FoundBoxes(_by_part(pictures, marks, lost, problems), tuple(problems), _indices(marks, path))


def _mark(where: str, label: str, texts: list[str], *, crowd: bool, problems: list[str]) -> Mark | None:
    if not label:
        problems.append(f"{where}: a box without a label: complete or remove it (skipped)")
        return None
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError:
        problems.append(f"{where}: a corner is no number ({', '.join(texts)[:60]}): correct or remove it (skipped)")
        return None
    return Mark(where, label, (x1, y1, x2, y2), crowd=crowd)


def _by_part(
    pictures: Mapping[Path, tuple[str, str]], marks: Mapping[Path, list[Mark]], lost: set[Path], problems: list[str]
) -> dict[str, tuple[MarkedPicture, ...]]:
    parts: dict[str, list[MarkedPicture]] = defaultdict(list)
    for path, (name, part) in pictures.items():
        boxes = marks.get(path, [])
        if path in lost and not boxes:
            problems.append(f"{name}: none of its boxes can be used, so what is on it is unknown (skipped)")
        else:
            parts[part].append(MarkedPicture(name, Source(path), tuple(boxes)))
    return {part: tuple(each) for part, each in parts.items()}


def _indices(marks: Mapping[Path, list[Mark]], path: Path) -> tuple[str, ...] | None:
    names = {mark.label for boxes in marks.values() for mark in boxes}
    return index_labels(names, str(path)) if names and all(map(is_index, names)) else None
