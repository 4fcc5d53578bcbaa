"""A table of pictures: one row each with its file and its label, and optionally the part it belongs to."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilenets.data.folder import Found, Sample, choose_parts, part_named
from mobilenets.data.labels import is_index, some, tidy
from mobilenets.data.pictures import Source, located
from mobilenets.errors import InputError

# Accepted headings, the first being the documented ones; compared in lower case.
FILE_COLUMNS = ("file", "filename", "file_name", "image", "path", "filepath", "image_path")
LABEL_COLUMNS = (
    *("label", "class", "category", "class_name", "label_name", "target"),
    *("class_index", "class_id", "label_id", "category_id", "index", "imagenet_index"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
_MOST_PROBLEMS = 20  # rows named one by one; a table with more of them is wrong as a whole


def find_in_csv(path: Path) -> Found:
    """Find the labelled pictures of a CSV (commas, semicolons or tabs; UTF-8; a heading line).

    Files are relative to the CSV, to the folder `images` beside it, or absolute. Labels are class names; where all
    are whole numbers they are class indices from 0. Rows that name no file, or one that is not there, become problems.
    Raises InputError where the table cannot be read, lacks a column, or names no existing file.
    """
    rows, columns = read_rows(path)
    file_column = column_of(columns, FILE_COLUMNS, path, "a picture's file")
    label_column = column_of(columns, LABEL_COLUMNS, path, "its label")
    split_column = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
    parts: dict[str, list[Sample]] = defaultdict(list)
    problems: list[str] = []
    seen: dict[Path, Sample] = {}
    for line, row in rows:
        here = f"{path.name} line {line}"
        if len(row) <= max(file_column, label_column, split_column or 0):
            problems.append(f"{here}: {len(row)} fields are too few: complete or remove it (skipped)")
            continue
        name, label = row[file_column].strip(), tidy(row[label_column])
        part = "train" if split_column is None else part_named(row[split_column])
        picture = located((path.parent, path.parent / "images"), name)
        reason = _reason_to_skip(name, label, picture, part)
        if reason or picture is None or part is None:
            problems.append(f"{here}: {reason} (skipped)")
            continue
        earlier = seen.get(picture)
        if earlier is not None:
            if earlier.label != label:
                problems.append(f"{here}: {name} is {label!r} here and {earlier.label!r} above: decide (skipped)")
            continue
        seen[picture] = Sample(name, Source(picture), label)
        parts[part].append(seen[picture])
    if not seen:
        first = f" ({problems[0]})" if problems else ""
        raise InputError(f"{path}: no row names an existing picture{first}: files are relative to the CSV's folder")
    labels = {sample.label for sample in seen.values()}
    _refuse_negative(labels, path)
    train, val, own_val = choose_parts({part: tuple(samples) for part, samples in parts.items()})
    return Found(train, val, own_val, _shortened(problems, path), indexed=all(is_index(label) for label in labels))


def read_rows(path: Path) -> tuple[list[tuple[int, list[str]]], dict[str, int]]:
    """Return the rows with their line numbers, and the position of every column by its heading in lower case.

    Raises InputError for what is no CSV in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter)
            heading = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}): check the file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text: save the table as CSV in UTF-8") from None
    columns: dict[str, int] = {}
    for index, name in enumerate(heading):
        columns.setdefault(name.strip().lower(), index)
    return rows, columns


def column_of(columns: Mapping[str, int], accepted: Sequence[str], path: Path, what: str) -> int:
    """Return the position of the first accepted heading; raises InputError, saying what it is for, without one."""
    for name in accepted:
        if name in columns:
            return columns[name]
    raise InputError(
        f"{path}: no column for {what}: name it {accepted[0]!r} in the first line, which has {some(list(columns))}"
    )


def _reason_to_skip(name: str, label: str, picture: Path | None, part: str | None) -> str | None:
    if not name:
        return "no file: complete or remove it"
    if not label:
        return f"{name} has no label: complete or remove it"
    if part is None:
        return f"{name}: its part is neither train, val nor test: correct it"
    if picture is None:
        return f"{name}: no such file: correct or remove it"
    return None


def _refuse_negative(labels: set[str], path: Path) -> None:
    for label in labels:
        if label.startswith("-") and is_index(label[1:]):
            raise InputError(f"{path}: label {label}: class indices count from 0: remove rows without a class")


def _shortened(problems: Sequence[str], path: Path) -> tuple[str, ...]:
    if len(problems) <= _MOST_PROBLEMS:
        return tuple(problems)
    rest = len(problems) - _MOST_PROBLEMS
    return (*problems[:_MOST_PROBLEMS], f"{path.name}: {rest:,} more rows like these (skipped)")
