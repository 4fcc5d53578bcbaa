"""Class folders, on disk or in a zip archive: one folder a class, with or without train/ and val/ above them."""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mobilenets.data.labels import some, tidy
from mobilenets.data.pictures import Source, archive
from mobilenets.errors import InputError
from mobilenets.image.decode import SUFFIXES

TRAIN_NAMES = frozenset({"train", "training"})
VAL_NAMES = frozenset({"val", "valid", "validation"})
TEST_NAMES = frozenset({"test", "testing"})
_SPLIT_NAMES = TRAIN_NAMES | VAL_NAMES | TEST_NAMES

# What systems leave in folders of their own accord; it is passed over without a word, like all hidden files.
_LITTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx", "@eadir", "$recycle.bin"})

# Fewer GIFs than this among other pictures are taken for graphics ("image not found") and left out.
_GIF_SHARE = 0.1
# As many files of one kind are named one by one; more become one line.
_NAMED = 3


@dataclass(frozen=True)
class Sample:
    """One labelled picture before it is decoded; `name` is its path within the data set."""

    name: str
    source: Source
    label: str


@dataclass(frozen=True)
class Found:
    """Labelled pictures by part, what was wrong, one line each, and whether labels are class indices."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    own_val: bool
    problems: tuple[str, ...]
    indexed: bool = False


@dataclass(frozen=True)
class _Listing:
    """Files by their path below the root, folders (also empty ones), and what could not be listed."""

    files: Mapping[PurePosixPath, Source]
    folders: frozenset[PurePosixPath]
    problems: tuple[str, ...]


def find_in_folder(root: Path) -> Found:
    """Find the labelled pictures below a folder; raises InputError where there are no class folders."""
    return _find(_list_folder(root), str(root))


def find_in_archive(path: Path) -> Found:
    """Find the labelled pictures in a zip archive, which is not unpacked; raises InputError where there are none."""
    return _find(_list_archive(path), str(path))


def choose_parts(parts: Mapping[str, tuple[Sample, ...]]) -> tuple[tuple[Sample, ...], tuple[Sample, ...], bool]:
    """Return training, validation, and whether the set has a validation part of its own.

    `test` serves as validation where there is no `val`, and is left alone where there is.
    """
    val = parts.get("val") or parts.get("test") or ()
    return parts.get("train", ()), val, bool(val)


def part_named(name: str) -> str | None:
    """Return "train", "val" or "test" for the usual names of these, else None."""
    lowered = name.strip().lower()
    for part, names in (("train", TRAIN_NAMES), ("val", VAL_NAMES), ("test", TEST_NAMES)):
        if lowered in names:
            return part
    return None


def _list_folder(root: Path) -> _Listing:
    files: dict[PurePosixPath, Source] = {}
    folders: set[PurePosixPath] = set()
    problems: list[str] = []

    def walk(folder: Path, relative: PurePosixPath, above: frozenset[tuple[int, int]]) -> None:
        try:
            status = folder.stat()
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError as error:
            problems.append(f"{relative}: may not be read ({error.strerror}): check its permissions (skipped)")
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            problems.append(f"{relative}: a link to a folder above it: remove it (skipped)")
            return
        for child in children:
            path = relative / tidy(child.name)
            if _is_litter(child.name):
                continue
            if child.is_dir():
                folders.add(path)
                walk(Path(child.path), path, above | {identity})
            elif child.is_file():
                files[path] = Source(Path(child.path))
            else:
                problems.append(f"{path}: a link to nothing, or no ordinary file: remove it (skipped)")

    walk(root, PurePosixPath(), frozenset())
    return _Listing(files, frozenset(folders), tuple(problems))


def _list_archive(path: Path) -> _Listing:
    files: dict[PurePosixPath, Source] = {}
    folders: set[PurePosixPath] = set()
    for member in sorted(archive(path).infolist(), key=lambda info: info.filename):
        relative = PurePosixPath(*(tidy(part) for part in PurePosixPath(member.filename).parts if part != "/"))
        if any(_is_litter(part) for part in relative.parts):
            continue
        folders.update(parent for parent in relative.parents if parent.parts)
        if member.is_dir():
            folders.add(relative)
        elif _is_encrypted(member):
            raise InputError(f"{path}: {member.filename} is encrypted: unpack the archive first")
        else:
            files[relative] = Source(path, member.filename)
    return _Listing(files, frozenset(folders), ())


def _is_encrypted(member: zipfile.ZipInfo) -> bool:
    return bool(member.flag_bits & 1)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _find(listing: _Listing, where: str) -> Found:
    top = _inner_root(listing)
    heads = {folder.parts[len(top.parts)] for folder in listing.folders if _is_below(folder, top)}
    if not heads:
        loose = "its pictures lie side by side: put" if _pictures_in(listing.files, top) else "put"
        raise InputError(f"{where}: no class folders: {loose} the pictures of each class into a folder named after it")
    parts_by_head = {head: part_named(head) for head in sorted(heads)}
    problems = list(listing.problems)
    problems += _named(_pictures_in(listing.files, top), "not in a class folder")
    if "train" not in parts_by_head.values() and None in parts_by_head.values():
        samples, more = _classes_below(listing, top)
        return Found(samples, (), own_val=False, problems=(*problems, *more))
    parts: dict[str, tuple[Sample, ...]] = {}
    for head, part in parts_by_head.items():
        if part is None:
            problems.append(f"{top / head}: neither train, val nor test: rename or remove it (skipped)")
        elif part in parts:
            problems.append(f"{top / head}: a second folder for {part}: merge them (skipped)")
        else:
            parts[part], more = _classes_below(listing, top / head)
            problems += more if part != "test" or "val" not in parts_by_head.values() else []
            problems += _named(_pictures_in(listing.files, top / head), "not in a class folder")
    train, val, own_val = choose_parts(parts)
    return Found(train, val, own_val=own_val, problems=tuple(problems))


def _inner_root(listing: _Listing) -> PurePosixPath:
    """Step into a lone folder that holds nothing but folders, as archives and downloads have it."""
    top = PurePosixPath()
    while True:
        heads = {folder for folder in listing.folders if folder.parent == top and folder != top}
        if len(heads) != 1 or _pictures_in(listing.files, top):
            return top
        (only,) = heads
        has_folders = any(folder.parent == only for folder in listing.folders)
        if part_named(only.name) or not has_folders or _pictures_in(listing.files, only):
            return top
        top = only


def _is_below(path: PurePosixPath, top: PurePosixPath) -> bool:
    return path != top and path.parts[: len(top.parts)] == top.parts


def _pictures_in(files: Iterable[PurePosixPath], folder: PurePosixPath) -> list[PurePosixPath]:
    """Return the files directly in a folder that are named like pictures."""
    return [path for path in files if path.parent == folder and path.suffix.lower() in SUFFIXES]


def _classes_below(listing: _Listing, top: PurePosixPath) -> tuple[tuple[Sample, ...], list[str]]:
    """Return the samples of the class folders below `top`, and one line for each thing left out."""
    depth = len(top.parts)
    candidates: list[PurePosixPath] = []
    others: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in listing.files:
        if not _is_below(path, top) or len(path.parts) < depth + 2:
            continue
        suffix = path.suffix.lower()
        if suffix in SUFFIXES or not suffix:  # without a suffix, the content says whether it is a picture
            candidates.append(path)
        else:
            others[suffix].append(path)
    gifs = [path for path in candidates if path.suffix.lower() == ".gif"]
    problems: list[str] = []
    if len(gifs) < _GIF_SHARE * len(candidates):
        dropped = set(gifs)
        candidates = [path for path in candidates if path not in dropped]
        problems += _named(gifs, "a GIF among photographs, so rather a graphic; save it as PNG if it is one of them")
    for suffix, paths in sorted(others.items()):
        problems += _named(paths, f"not a picture ({suffix})")
    samples = tuple(Sample(str(path), listing.files[path], path.parts[depth]) for path in candidates)
    filled = {sample.label for sample in samples}
    problems += [
        f"{folder}: no pictures in this class folder: fill or remove it (skipped)"
        for folder in sorted(listing.folders)
        if len(folder.parts) == depth + 1 and _is_below(folder, top) and folder.name not in filled
    ]
    return samples, problems


def _named(paths: Sequence[PurePosixPath], reason: str) -> Iterator[str]:
    """Say why files are left out: one line each for a few, one for all of many."""
    if len(paths) > _NAMED:
        names = some([str(path) for path in sorted(paths)], _NAMED)
        yield f"{len(paths):,} files: {reason}: {names} (skipped)"
    else:
        for path in sorted(paths):
            yield f"{path}: {reason} (skipped)"
