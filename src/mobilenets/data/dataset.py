"""Open any kind of data set as training and validation pictures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mobilenets.data import known
from mobilenets.data.annotations import FoundBoxes
from mobilenets.data.arrays import Arrays, read_npz, read_npz_pair
from mobilenets.data.boxed import BoxedPictures, all_boxed, boxes_in, open_boxes, unusual
from mobilenets.data.csv import find_in_csv
from mobilenets.data.folder import Found, Sample, find_in_archive, find_in_folder
from mobilenets.data.labels import index_labels, mapping_to, ordered, some
from mobilenets.data.pictures import ArrayPictures, FilePictures, HeldPictures, Pictures, joined
from mobilenets.data.scan import DECODE_BYTES, KEEP_BYTES, scan
from mobilenets.data.split import stratified
from mobilenets.errors import InputError


@dataclass(frozen=True)
class Data:
    """A data set, opened: what to train on, what to validate on, and what was left out.

    `everything` is all pictures; where `own_val` is False, train and val are a split of it that the seed decides.
    `mirrorable` is False where a mirrored picture means something else (digits). `problems` has one line for each
    picture, class or row that is left out or odd. Where the pictures have boxes (`boxed`), all parts are
    `BoxedPictures`, and `test` is a part that neither training nor validation touches, if there is one.
    """

    name: str
    labels: tuple[str, ...]
    train: Pictures
    val: Pictures
    everything: Pictures
    own_val: bool
    mirrorable: bool
    problems: tuple[str, ...]
    test: Pictures | None = None

    @property
    def boxed(self) -> bool:
        """Whether these are pictures with boxes, for a detector."""
        return isinstance(self.everything, BoxedPictures)


@dataclass(frozen=True)
class _Opened:
    train: Pictures
    val: Pictures | None
    problems: tuple[str, ...] = ()
    mirrorable: bool = True


def open_data(
    data: str | Path,
    *,
    root: Path | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    strict: bool = False,
    labels: Sequence[str] | None = None,
    keep_bytes: int = KEEP_BYTES,
    decode_bytes: int = DECODE_BYTES,
) -> Data:
    """Open a folder, a CSV, an `.npz`, a `.zip` or a known name for training or evaluation.

    Known names are digits (always there), mnist, fashion_mnist and cifar10. Annotations of boxes are recognised: VOC,
    COCO, YOLO, and a CSV with corners; see `mobilenets.data.boxed`.
    Without a validation part of its own, `val_fraction` of every class is split off; the seed decides which. With
    `labels` (a model's), targets index these: classes are matched by name, or by index where all are whole numbers.
    `root` is where a known name's files are, or are downloaded to. Every picture's header is read, and everything is
    decoded once where the files are up to `decode_bytes` in all; what fits in `keep_bytes` then stays in memory.

    Raises InputError where nothing usable is found, for classes that `labels` does not have, and, with `strict`, for
    the first of the problems.

    >>> open_data("digits").train.picture(0).shape
    (8, 8, 1)
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction must lie between 0 and 1, not {val_fraction}")
    find = None if str(data) in known.KNOWN else boxes_in(Path(data).expanduser())
    if find is not None:
        boxed = _open_boxed(find, str(data), labels, keep_bytes, decode_bytes)
        return _split_boxed(boxed, seed, val_fraction, strict=strict)
    opened = _open(data, root, keep_bytes, decode_bytes)
    name = str(data) if str(data) in known.KNOWN else _name_of(Path(data).expanduser().resolve())
    whole = joined(opened.train, opened.val) if opened.val is not None else opened.train
    if len(whole) == 0:
        first = f" ({opened.problems[0]})" if opened.problems else ""
        raise InputError(f"{data}: no usable pictures{first}: check the folder")
    problems = [*opened.problems]
    if labels is not None:
        opened, whole = _with_labels_of_model(opened, whole, labels, str(data))
    if opened.val is None:
        train_indices, val_indices = stratified(
            whole.targets, [whole.name(index) for index in range(len(whole))], seed=seed, val_fraction=val_fraction
        )
        train, val = whole.take(train_indices), whole.take(val_indices)
    else:
        train, val = opened.train, opened.val
    if labels is None:
        problems += _odd_classes(train, val, own_val=opened.val is not None)
    _stop_if(strict, problems, str(data))
    return Data(
        name=name,
        labels=whole.labels,
        train=train,
        val=val,
        everything=whole,
        own_val=opened.val is not None,
        mirrorable=opened.mirrorable,
        problems=tuple(problems),
    )


def _stop_if(strict: bool, problems: Sequence[str], where: str) -> None:  # noqa: FBT001 - private, and reads well
    if strict and problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{where}: {problems[0].removesuffix(' (skipped)')}{more}: mend it, or leave out --strict")


def _open_boxed(
    find: Callable[[], FoundBoxes], data: str, labels: Sequence[str] | None, keep_bytes: int, decode_bytes: int
) -> Data:
    """Open pictures with boxes; where they have no validation part, all are in `train`."""
    opened = open_boxes(find, data, keep_bytes, decode_bytes)
    parts = {name: part for name, part in opened.parts.items() if len(part)}
    if labels is not None:
        used = np.unique(np.concatenate([truth.classes for part in parts.values() for truth in part.truths]))
        own = next(iter(parts.values())).labels
        mapping = mapping_to(own, used, labels, data)
        parts = {name: part.relabelled(tuple(labels), mapping) for name, part in parts.items()}
    none = next(iter(parts.values())).take([])
    train, val = parts.get("train", none), parts.get("val") or parts.get("test") or none
    whole = all_boxed([part for part in (train, val) if len(part)])
    problems = opened.problems if labels is not None else (*opened.problems, *unusual(whole))
    name = _name_of(Path(data).expanduser().resolve())
    return Data(
        name,
        whole.labels,
        train,
        val,
        whole,
        bool(len(val)),
        mirrorable=True,
        problems=problems,
        test=parts.get("test"),
    )


def _split_boxed(data: Data, seed: int, val_fraction: float, *, strict: bool) -> Data:
    """Hold some pictures back for validation where the data does not."""
    _stop_if(strict, data.problems, data.name)
    if data.own_val:
        return data
    names = [data.train.name(index) for index in range(len(data.train))]
    held = stratified(data.train.targets, names, seed=seed, val_fraction=val_fraction)
    return replace(data, train=data.everything.take(held[0]), val=data.everything.take(held[1]))


def _name_of(path: Path) -> str:
    return (path.name if path.is_dir() else path.stem) or str(path)


def _open(data: str | Path, root: Path | None, keep_bytes: int, decode_bytes: int) -> _Opened:
    if str(data) in known.KNOWN:
        return _open_known(str(data), root, keep_bytes, decode_bytes)
    path = Path(data).expanduser()
    if root is not None:
        raise InputError(f"--root {root}: only for {', '.join(known.KNOWN)}: leave it out for {data}")
    if path.is_dir():
        return _open_folder(path, keep_bytes, decode_bytes)
    if not path.is_file():
        close = difflib.get_close_matches(str(data).replace("-", "_").lower(), known.KNOWN, 1)
        hint = f"did you mean {close[0]}?" if close else f"give a path, or one of {', '.join(known.KNOWN)}"
        raise InputError(f"{data}: no such data set, file or folder: {hint}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _from_arrays(read_npz(path))
    if suffix in (".csv", ".tsv"):
        return _from_samples(find_in_csv(path), str(path), keep_bytes, decode_bytes)
    if suffix == ".zip":
        return _from_samples(find_in_archive(path), str(path), keep_bytes, decode_bytes)
    raise InputError(f"{data}: neither a folder nor a .csv, .npz or .zip: DATA must be one of these")


def _open_folder(folder: Path, keep_bytes: int, decode_bytes: int) -> _Opened:
    """Open what a folder holds: labels.csv, train.npz and test.npz, train.zip and test.zip, or class folders."""
    if (folder / "labels.csv").is_file():
        return _from_samples(find_in_csv(folder / "labels.csv"), str(folder), keep_bytes, decode_bytes)
    if _has_pair(folder, ".npz"):
        return _from_arrays(read_npz_pair(folder / "train.npz", folder / "test.npz"))
    if _has_pair(folder, ".zip"):
        train, val = (find_in_archive(folder / name) for name in ("train.zip", "test.zip"))
        both = Found(
            train=tuple(replace(sample, name=f"train.zip/{sample.name}") for sample in train.train + train.val),
            val=tuple(replace(sample, name=f"test.zip/{sample.name}") for sample in val.train + val.val),
            own_val=True,
            problems=train.problems + val.problems,
        )
        return _from_samples(both, str(folder), keep_bytes, decode_bytes)
    return _from_samples(find_in_folder(folder), str(folder), keep_bytes, decode_bytes)


def _has_pair(folder: Path, suffix: str) -> bool:
    return (folder / f"train{suffix}").is_file() and (folder / f"test{suffix}").is_file()


def _open_known(name: str, root: Path | None, keep_bytes: int, decode_bytes: int) -> _Opened:
    mirrorable = known.KNOWN[name].mirrorable
    if name == "digits":
        return _Opened(known.read_digits(), None, mirrorable=mirrorable)
    if root is not None:
        # The set may be there in a plainer form than torchvision's.
        for folder in (root, root / name):
            if _has_pair(folder, ".npz") or _has_pair(folder, ".zip") or _has_class_folders(folder):
                return replace(_open_folder(folder, keep_bytes, decode_bytes), mirrorable=mirrorable)
    return replace(_from_arrays(known.read_torchvision(name, root or known.default_root())), mirrorable=mirrorable)


def _has_class_folders(folder: Path) -> bool:
    return (folder / "train").is_dir() and any((folder / part).is_dir() for part in ("test", "val"))


def _from_arrays(arrays: Arrays) -> _Opened:
    return _Opened(arrays.train, arrays.val)


def _from_samples(found: Found, where: str, keep_bytes: int, decode_bytes: int) -> _Opened:
    """Scan the pictures, and hold them in one array, one by one, or by their files."""
    samples = found.train + found.val
    scanned = scan(
        [sample.source for sample in samples],
        [sample.name for sample in samples],
        keep_bytes=keep_bytes,
        decode_bytes=decode_bytes,
    )
    usable: list[Sample] = [samples[index] for index in scanned.usable]
    present = {sample.label for sample in usable}
    labels = index_labels(present, where) if found.indexed else ordered(present)
    position = {label: index for index, label in enumerate(labels)}
    targets = np.array([int(s.label) if found.indexed else position[s.label] for s in usable], np.int64)
    names = tuple(sample.name for sample in usable)
    pictures: Pictures
    if isinstance(scanned.pixels, np.ndarray):
        pictures = ArrayPictures(labels, targets, names, scanned.pixels)
    elif scanned.pixels is not None:
        pictures = HeldPictures(labels, targets, names, scanned.pixels, scanned.channels)
    else:
        sources = tuple(sample.source for sample in usable)
        pictures = FilePictures(labels, targets, names, sources, scanned.sizes, scanned.channels)
    problems = found.problems + scanned.problems
    if not found.own_val:
        return _Opened(pictures, None, problems)
    in_val = scanned.usable >= len(found.train)
    return _Opened(pictures.take(np.flatnonzero(~in_val)), pictures.take(np.flatnonzero(in_val)), problems)


def _with_labels_of_model(
    opened: _Opened, whole: Pictures, labels: Sequence[str], where: str
) -> tuple[_Opened, Pictures]:
    """Turn targets into indices of a model's labels."""
    mapping = mapping_to(whole.labels, whole.targets, labels, where)
    wanted = tuple(labels)
    train = opened.train.relabelled(wanted, mapping)
    val = None if opened.val is None else opened.val.relabelled(wanted, mapping)
    return replace(opened, train=train, val=val), whole.relabelled(wanted, mapping)


def _odd_classes(train: Pictures, val: Pictures, *, own_val: bool) -> list[str]:
    """Return one line for each oddity of the classes that makes training on them worth less."""
    labels = train.labels
    in_train = np.bincount(train.targets, minlength=len(labels))
    in_val = np.bincount(val.targets, minlength=len(labels))
    odd = {
        "classes without any picture": (in_train == 0) & (in_val == 0),
        "classes in the validation part alone, never learned": (in_train == 0) & (in_val > 0) & (len(train) > 0),
        "classes missing from the validation part, not measured": (in_train > 0) & (in_val == 0) & own_val,
        "classes of a single picture, trained on and not measured": (in_train > 0) & (in_val == 0) & (not own_val),
    }
    problems = [
        f"{what} ({np.count_nonzero(which):,} of {len(labels):,}): {some([labels[i] for i in np.flatnonzero(which)])}"
        for what, which in odd.items()
        if which.any()
    ]
    if len(labels) == 1:
        problems.append(f"only one class, {labels[0]!r}: every answer will be {labels[0]!r}; add a folder for another")
    return problems
