"""Every error a user can cause, and what makes one of a package that is absent.

    MobileNetsError
    ├── InputError           a picture, a folder, a label file, a value: names it and the remedy
    ├── CheckpointError      a checkpoint that is truncated, tampered with, foreign, or from a newer version
    ├── ConvertError         somebody else's weights that are not recognised or do not fit
    ├── WeightsError         published weights that cannot be fetched or fail their checksum
    ├── ParityError          a file that does not compute what it was made from, and was therefore not kept
    └── MissingExtraError    an optional dependency is absent: names the `pip install` that brings it

The message is one line, names the file or the flag, and says what to do. The command line prints it and exits with 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MobileNetsError(Exception):
    """Base of all errors that mobilenets raises on purpose."""


class InputError(MobileNetsError):
    """A picture, a data set, a path or a value that cannot be used."""


class CheckpointError(MobileNetsError):
    """A file that is not a sound mobilenets checkpoint."""


class ConvertError(MobileNetsError):
    """Weights from elsewhere that are not recognised, or do not fit the architecture they name."""


class WeightsError(MobileNetsError):
    """Published weights that cannot be found, fetched or verified."""


class ParityError(MobileNetsError):
    """An exported or quantized file that does not compute what it was made from; it was not kept."""


class MissingExtraError(MobileNetsError):
    """An optional dependency is needed and not installed.

    >>> str(MissingExtraError("torch", "train"))
    "torch is needed here and is not installed: pip install 'mobilenets[train]'"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed here and is not installed: pip install 'mobilenets[{extra}]'")


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Raise MissingExtraError for a package that is found to be absent inside, our own modules apart.

    >>> with needing("train"):
    ...     import torhc
    Traceback (most recent call last):
    mobilenets.errors.MissingExtraError: torhc is needed here and is not installed: pip install 'mobilenets[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "mobilenets").partition(".")[0]
        if package == "mobilenets":
            raise
        raise MissingExtraError(package, extra) from None
