"""Several processes training one network, started by torchrun; or this one alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from mobilenets.errors import MobileNetsError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, one of which may be writing or compiling, before it gives up."""


def accelerator() -> Accelerator:
    """Join the processes that torchrun started, over gloo on CPUs and NCCL on GPUs; or set up this one alone.

    Raises:
        MobileNetsError: the others cannot be reached.
    """
    if _launched() and os.environ.get("MASTER_PORT") == "0":
        raise MobileNetsError(
            "torchrun tells its processes to meet at port 0, where nobody is: leave --master-port out, or name a port"
        )
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    try:
        return Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    except RuntimeError as error:
        if _launched():
            raise MobileNetsError(
                f"the other processes cannot be reached ({_first_line(error)}): check torchrun's flags"
            ) from None
        raise


def from_first(accelerator: Accelerator, value: Any) -> Any:
    """Return the first process's value in all of them."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


@contextmanager
def ending_together(accelerator: Accelerator) -> Iterator[None]:
    """Turn the loss of another process into one line, instead of a hang or a traceback from the network's depths.

    Raises:
        MobileNetsError: a process has gone, or the launcher asked this one to end because one has.
    """
    if accelerator.num_processes == 1:
        yield
        return
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _asked_to_end) if in_main_thread else None
    try:
        yield
    except (RuntimeError, _AskedToEndError) as error:
        if isinstance(error, RuntimeError) and not _is_about_processes(error):
            raise
        raise MobileNetsError(
            "another process of this training has ended, so this one does too: go on with the same command and --resume"
        ) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


class _AskedToEndError(Exception):
    pass


def _asked_to_end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler's signature
    raise _AskedToEndError


def _is_about_processes(error: RuntimeError) -> bool:
    """Say whether an error came from the processes' communication; gloo raises plain RuntimeErrors."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error)
    return any(word in text for word in ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer"))


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
