"""The command line: `mobilenets VERB` is `mobilenets.VERB`.

Commands are made from the verbs' signatures and docstrings: what is positional there is an argument here, what is
keyword-only is a flag, and every default and every help text is the verb's own. Only `--json` is added. A verb returns
a result, and what is printed on standard output is `str(result)` or, with `--json`, one JSON document; everything else
a verb or a library prints on the way goes to standard error.

Exit codes:
    0    done
    1    a MobileNetsError, or the operating system said no (disk full, permission): one line on standard error
    2    usage: an unknown command or flag, a value of the wrong kind
    130  Ctrl-C
    141  the reader of our output went away (`| head`)

Any other exception is a bug in mobilenets. It keeps its traceback, and Python's exit code for it, which is 1.

Of several processes of one training (torchrun) the first one alone prints the result; each prints its own error.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Protocol

from mobilenets.notices import taken

if TYPE_CHECKING:
    from cyclopts import App, Token

Verb = Callable[..., "Result | None"]

VERBS: tuple[str, ...] = (
    "show",
    "train",
    "evaluate",
    "predict",
    "serve",
    "convert",
    "quantize",
    "export",
    "bench",
    "tune",
    "fit",
    "diagnose",
    "prune",
    "reproduce",
)
"""The commands, in the order of the road from pictures to a device, then those that look closer."""


class Result(Protocol):
    """What a verb returns: `str()` of it is for people, `to_json()` for programs."""

    def to_json(self) -> Any:
        """Return dicts, lists, strings, numbers and None."""


def main(arguments: Sequence[str] | None = None, *, verbs: Mapping[str, Verb] | None = None) -> int:
    """Run one command; return its exit code.

    Args:
        arguments: what follows the program's name; None takes it from `sys.argv`.
        verbs: as in `build_app`.
    """
    from mobilenets.errors import MobileNetsError

    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments), verbs)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except MobileNetsError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)


def build_app(verbs: Mapping[str, Verb] | None = None) -> App:
    """Make the program out of functions.

    Args:
        verbs: the functions by command name; None takes the public verbs of `mobilenets`.
    """
    from cyclopts import App, Parameter

    import mobilenets

    if verbs is None:
        verbs = {name: getattr(mobilenets, name) for name in VERBS}
    app = App(
        name="mobilenets",
        help=(mobilenets.__doc__ or "").partition("\n")[0],
        version=mobilenets.__version__,
        help_format="plaintext",  # docstrings have brackets and stars that are no markup; markdown costs 50 ms more
        suppress_keyboard_interrupt=False,  # main() has its own line for it
        default_parameter=Parameter(negative_iterable=(), negative_none=()),
    )
    for order, (name, verb) in enumerate(verbs.items()):
        app.command(_command(verb), name=name, sort_key=order)
    return app


def _run(arguments: list[str], verbs: Mapping[str, Verb] | None) -> int:
    from cyclopts import CycloptsError

    app = build_app(verbs)
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(("mobilenets", *(error.command_chain or ())))
        return _fail(f"{error} Try: {command} --help", 2)
    return 0


def _command(verb: Verb) -> Callable[..., None]:
    """Wrap a verb so that it prints its result, and add `--json` to its signature."""
    import inspect
    from types import FunctionType
    from typing import Annotated, get_args, get_type_hints

    from cyclopts import Parameter

    assert isinstance(verb, FunctionType)
    flags = FunctionType(verb.__code__, verb.__globals__)  # the result's type need not be imported to read the flags
    flags.__annotations__ = {name: hint for name, hint in verb.__annotations__.items() if name != "return"}
    hints = get_type_hints(flags, include_extras=True)
    side = Parameter(converter=_side, n_tokens=1, accepts_keys=False, metavar="SIDE|HxW")
    switch = Parameter(negative=(), show_default=False)  # off unless given
    parameters = []
    for parameter in inspect.signature(verb).parameters.values():
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = inspect.Parameter.POSITIONAL_ONLY if positional else parameter.kind
        hint = hints[parameter.name]
        if hint is bool:
            hint = Annotated[bool, switch]
        elif {int, tuple[int, int]} <= {*get_args(hint)}:
            hint = Annotated[hint, side]
        parameters.append(parameter.replace(kind=kind, annotation=hint))
    as_json = Annotated[bool, switch, Parameter(help="Print one JSON document instead of text.")]
    parameters.append(inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=as_json))

    def command(*args: Any, json: bool = False, **keywords: Any) -> None:
        with redirect_stdout(sys.stderr):
            result = verb(*args, **keywords)
        if result is not None and os.environ.get("RANK", "0") == "0":
            _print(_json(result) if json else str(result))
        for line in taken():
            if not json:
                print(f"mobilenets: {line}", file=sys.stderr)

    command.__doc__ = _help(inspect.cleandoc(verb.__doc__ or ""))
    command.__signature__ = inspect.signature(verb).replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _help(docstring: str) -> str:
    """Leave out examples in Python and the line breaks within paragraphs: the terminal has its own width."""
    docstring = re.sub(r"^ *>>>.*?(\n\s*\n|\Z)", "", docstring, flags=re.DOTALL | re.MULTILINE)
    # A line is continued by the next unless that is empty, a list's item, a section's heading or a parameter's name,
    # or is itself a heading.
    return re.sub(r"(?<!\n)(?<!Args:)\n(?=[^\n])(?! *(?:- |\w+:(?: |\n))) *", " ", docstring)


def _side(_kind: object, tokens: Sequence[Token]) -> int | tuple[int, int]:
    """Read `224` as a side and `160x224` as (height, width)."""
    text = tokens[0].value
    height, cross, width = text.partition("x")
    try:
        return (int(height), int(width)) if cross else int(height)
    except ValueError:
        raise ValueError(f"{text!r} is neither a side such as 224 nor height x width such as 160x224.") from None


def _json(result: Result) -> str:
    import json

    # ASCII alone: file names that are not valid UTF-8 survive, and no terminal's encoding matters.
    return json.dumps(result.to_json(), indent=2, allow_nan=False)


def _print(text: str) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without the characters of a table or a file name
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more on its way out; give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _fail(message: str, code: int) -> int:
    rank = os.environ.get("RANK")
    who = "mobilenets" if rank is None else f"mobilenets (process {rank})"
    print(f"{who}: {' '.join(message.splitlines())}", file=sys.stderr)
    return code
