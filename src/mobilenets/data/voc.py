"""Pascal VOC: one XML file a picture, in Annotations/ beside JPEGImages/ and ImageSets/, or beside the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenets.data.annotations import FoundBoxes, Mark, MarkedPicture, PictureIndex, pictures_in, relative_name
from mobilenets.data.folder import part_named
from mobilenets.data.labels import some, tidy
from mobilenets.data.pictures import Source
from mobilenets.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_PICTURE_FOLDERS = ("JPEGImages", "images", "Images", "img", ".")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LARGEST_BYTES = 16 << 20  # no picture has that many boxes


def voc_root(folder: Path) -> Path | None:
    """Return the folder that holds Annotations/ or XML beside pictures: this one or a lone one in it; None if none."""
    if _is_voc(folder):
        return folder
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    fitting = [path for path in inner if part_named(path.name) is None and (path / "Annotations").is_dir()]
    return fitting[0] if len(fitting) == 1 else None


def _is_voc(folder: Path) -> bool:
    if (folder / "Annotations").is_dir():
        return _has_xml(folder / "Annotations")
    return any(_has_xml(place) and pictures_in(place) for place in _places(folder).values())


def _has_xml(folder: Path) -> bool:
    return any(path.suffix.lower() == ".xml" for path in folder.iterdir())


def _places(folder: Path) -> dict[str, Path]:
    """Return the folders where XML may lie beside pictures, by part."""
    parts = {part_named(path.name): path for path in sorted(folder.iterdir()) if path.is_dir()}
    named = {part: path for part, path in parts.items() if part is not None}
    return named if any(_has_xml(path) for path in named.values()) else {"train": folder}


def find_in_voc(root: Path) -> FoundBoxes:
    """Find the pictures and boxes of a folder that :func:`voc_root` named.

    The lists in ImageSets/Main say what is train, val and test. Objects marked `difficult` are taken as crowds. What
    cannot be read becomes a problem. Document types and entities in XML are refused: with them a small file can fill
    the memory.
    """
    problems: list[str] = []
    if (root / "Annotations").is_dir():
        index = PictureIndex(root / name for name in _PICTURE_FOLDERS)
        files = {path.stem: path for path in _xml_files(root / "Annotations")}
        lists = _lists(root / "ImageSets" / "Main", problems)
        chosen = _listed(lists, files, problems) if lists else {"train": list(files.values())}
        parts = {part: _read_all(paths, index, root, problems) for part, paths in chosen.items()}
        if not lists:
            problems += _without_xml(index, parts, root)
        return FoundBoxes(parts, tuple(problems))
    parts = {}
    for part, place in _places(root).items():
        index = PictureIndex([place])
        parts[part] = _read_all(_xml_files(place), index, root, problems)
        problems += _without_xml(index, {part: parts[part]}, root)
    return FoundBoxes(parts, tuple(problems))


def _xml_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".xml" and not p.name.startswith("."))


def _lists(folder: Path, problems: list[str]) -> dict[str, list[str]]:
    """Return the picture names of train, val and test, as the lists have them."""
    lists = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        part = part_named(path.stem) or ("trainval" if path.stem.lower() == "trainval" else None)
        if part is not None:
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{path.name}: not a readable list ({error}): correct or remove it (skipped)")
                continue
            lists[part] = [line.split()[0] for line in lines if line.strip()]
    both = lists.pop("trainval", [])
    if both and "train" not in lists:
        lists["train"] = [name for name in both if name not in set(lists.get("val", []))]
    return lists


def _listed(
    lists: Mapping[str, Sequence[str]], files: Mapping[str, Path], problems: list[str]
) -> dict[str, list[Path]]:
    chosen: dict[str, list[Path]] = {}
    taken: dict[str, str] = {}
    for part, names in lists.items():
        chosen[part] = []
        for name in names:
            stem = name if name in files else Path(name).stem
            if stem not in files:
                problems.append(f"{part}.txt: {name}: no Annotations/{name}.xml: add it or strike the name (skipped)")
            elif stem in taken:
                problems.append(f"{part}.txt: {name} is in {taken[stem]}.txt already: strike one of them (skipped)")
            else:
                taken[stem] = part
                chosen[part].append(files[stem])
    unlisted = sorted(set(files) - set(taken))
    if unlisted:
        problems.append(
            f"{len(unlisted):,} annotations are in no list of ImageSets/Main: {some(unlisted, 3)} (skipped)"
        )
    return chosen


def _without_xml(index: PictureIndex, parts: Mapping[str, Sequence[MarkedPicture]], root: Path) -> list[str]:
    used = {picture.source.path for pictures in parts.values() for picture in pictures}
    unread = [relative_name(path, root) for path in index if path not in used]
    if not unread:
        return []
    return [f"{len(unread):,} pictures without a usable annotation file: {some(unread, 3)} (skipped)"]


def _read_all(paths: Sequence[Path], index: PictureIndex, root: Path, problems: list[str]) -> tuple[MarkedPicture, ...]:
    pictures: dict[Path, MarkedPicture] = {}
    for path in paths:
        name = relative_name(path, root)
        try:
            tree = _parsed(path)
        except InputError as error:
            problems.append(f"{name}: {error} (skipped)")
            continue
        stated = (tree.findtext("filename") or "").strip()
        picture = index.find(stated, path.stem)
        if picture is None:
            problems.append(
                f"{name}: its picture {stated or path.stem!r} is not there: add it or remove the file (skipped)"
            )
        elif picture in pictures:
            problems.append(f"{name}: a second file for {relative_name(picture, root)}: remove one of them (skipped)")
        else:
            marks = _marks(tree, name, problems)
            if marks is not None:
                pictures[picture] = MarkedPicture(
                    relative_name(picture, root), Source(picture), marks, size=_size(tree)
                )
    return tuple(pictures.values())


def _parsed(path: Path) -> Element:
    """Return the tree of a file; raises InputError, without the file's name, for what is no annotation."""
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError:
        raise MissingExtraError("defusedxml", "detection") from None
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError("too large for an annotation file: correct or remove it")
        tree: Element = fromstring(path.read_bytes(), forbid_dtd=True)
    except DefusedXmlException:
        raise InputError("declares a document type or entities, which are never read: remove them") from None
    except (ParseError, ValueError, LookupError) as error:
        raise InputError(f"not readable XML ({error}): write it anew") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error}): check its permissions") from None
    if tree.tag != "annotation":
        raise InputError(f"no VOC annotation, but <{tree.tag[:40]}>: remove it")
    return tree


def _size(tree: Element) -> tuple[int, int] | None:
    try:
        return int(tree.findtext("size/height") or 0), int(tree.findtext("size/width") or 0)
    except ValueError:
        return None


def _marks(tree: Element, name: str, problems: list[str]) -> tuple[Mark, ...] | None:
    """Return the boxes; None where the file has objects and not one of them can be read."""
    marks = []
    objects = tree.findall("object")
    for number, item in enumerate(objects, start=1):
        where = f"{name}, object {number}"
        label = tidy(item.findtext("name") or "")
        texts = [(item.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
        if not label:
            problems.append(f"{where}: no name: add one or remove it (skipped)")
            continue
        if not all(texts):
            missing = _CORNERS[texts.index("")]
            problems.append(f"{where}: no {missing} in its bndbox: add it or remove the object (skipped)")
            continue
        try:
            x1, y1, x2, y2 = (float(text) for text in texts)
        except ValueError:
            problems.append(f"{where}: a corner is no number ({', '.join(texts)[:60]}): correct it (skipped)")
            continue
        ignored = any((item.findtext(flag) or "0").strip() == "1" for flag in ("difficult", "iscrowd"))
        marks.append(Mark(where, label, (x1, y1, x2, y2), crowd=ignored))
    if objects and not marks:
        problems.append(f"{name}: none of its objects can be read, so what is on the picture is unknown (skipped)")
        return None
    return tuple(marks)
