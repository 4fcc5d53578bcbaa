"""What is said while training: a bar where there is a terminal, else a line now and then; always on standard error."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from mobilenets.text import duration, percent

LINE_SECONDS = 60
"""Without a terminal, a long epoch says how far it is this often."""


class Progress:
    """The voice of one run; silent in all processes but the first."""

    def __init__(self, *, silent: bool = False, epochs: int = 0) -> None:
        self.silent = silent
        self.epochs = epochs
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._epoch = self._steps = self._step = self._first_step = 0
        self._images = 0
        self._begun = self._said = 0.0
        self._steps_before = 0  # of this sitting, in earlier epochs
        self._sitting: float | None = None

    def say(self, line: str) -> None:
        """Print one line."""
        if not self.silent:
            if self._bars is not None:
                self._bars.console.print(line, markup=False)
            else:
                print(line, file=sys.stderr, flush=True)

    def epoch_started(self, epoch: int, steps: int, step: int) -> None:
        """Note that epoch `epoch` (from 0) starts or goes on at `step` of `steps`."""
        self._epoch, self._steps, self._step, self._first_step, self._images = epoch, steps, step, step, 0
        self._begun = self._said = time.monotonic()
        self._show_bar(f"epoch {epoch + 1}/{self.epochs}", steps, step)

    def stepped(self, images: int, sums: torch.Tensor) -> None:
        """Note that a step over `images` pictures is done; `sums` are loss, right ones and pictures of the epoch."""
        self._step += 1
        self._images += images
        now = time.monotonic()
        if self._bars is not None and self._task is not None:
            text = self._text(sums) if now - self._said > 0.5 else None
            if text is not None:
                self._said = now
                self._bars.update(self._task, completed=self._step, text=text)
            else:
                self._bars.update(self._task, completed=self._step)
        elif not self.silent and now - self._said > LINE_SECONDS:
            self._said = now
            self.say(f"epoch {self._epoch + 1}/{self.epochs}  {self._step}/{self._steps} steps  {self._text(sums)}")

    def counting(self, title: str, total: int) -> None:
        """Note that `total` batches of something else than training begin."""
        self._show_bar(title, total, 0)

    def advance(self) -> None:
        """Note that one of them is done."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task)

    def epoch_ended(self, entry: dict[str, Any], epochs: int, *, best: bool) -> None:
        """Print the epoch's line."""
        self.close()
        named = (("val_top1", "val top-1"), ("val_map", "val mAP"), ("val_map_50", "mAP .5"))
        values = "".join(f"  {name} {percent(entry[key])}" for key, name in named if entry.get(key) is not None)
        val_loss = "" if entry["val_loss"] is None else f"  val loss {entry['val_loss']:.4f}"
        rest = (epochs - entry["epoch"]) * entry["seconds"] / entry["epoch"]
        left = f"  about {duration(rest)} left" if rest >= 1 else ""
        self.say(
            f"epoch {entry['epoch']}/{epochs}  loss {entry['train_loss']:.4f}{val_loss}{values}"
            f"{' (best)' if best else ''}  {entry['images_per_second']:,.0f} images/s{left}"
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None

    def _text(self, sums: torch.Tensor) -> str:
        loss, _, pictures = sums.tolist()
        seconds = max(1e-9, time.monotonic() - self._begun)
        per_step = seconds / max(1, self._step - self._first_step)
        left = per_step * (self._steps - self._step + self._steps * (self.epochs - self._epoch - 1))
        return f"loss {loss / max(1, pictures):.4f}  {self._images / seconds:,.0f} images/s  {duration(left)} left"

    def _show_bar(self, title: str, total: int, completed: int) -> None:
        self.close()
        if self.silent or not self._console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bars = Bars(*columns, console=self._console, transient=True)
        self._task = self._bars.add_task(title, total=total, completed=completed, text="")
        self._bars.start()
