"""What a person sees of a running training, and how they stop it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from gru_lm.training.loop import Row, Training
from gru_lm.training.ranks import Ranks

LINES = 10  # per run, if it is not followed on a terminal


class Progress:
    """A bar on a terminal with perplexity, speed and time left, elsewhere about ten lines.

    Use it as a context manager. ``say`` gets the lines. Only the first of several ranks shows it.
    """

    def __init__(self, training: Training, say: Callable[[str], None]) -> None:
        self._training, self._say = training, say
        self._bar: tqdm | None = None  # type: ignore[type-arg]
        if training.ranks.first and sys.stderr.isatty():
            # In epochs, not in their steps: to count these takes seconds if there are very many.
            epochs = training.settings.epochs
            total = training.plan.total if epochs is None else epochs
            unit = {"epochs": "epochs", "steps": "steps", "minutes": "s"}[
                training.settings.length_key
            ]
            form = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
            self._bar = tqdm(total=total, initial=self._done(), unit=unit, bar_format=form)
        self._line = self._tenth()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self) -> None:
        """Show that one more step is done."""
        if self._bar is not None:
            self._bar.update(self._done() - self._bar.n)

    def row(self, row: Row) -> None:
        """Show the figures of ``row``."""
        speed = row.tokens / row.seconds
        figures = f"perplexity {row.perplexity:.3f}, {speed:,.0f} tokens/s"
        if row.val_perplexity is not None and self._bar is not None:
            figures = f"validation {row.val_perplexity:.3f}, {figures}"
        if self._bar is not None:
            self._bar.set_postfix_str(figures)
        elif self._tenth() > self._line:
            self._line = self._tenth()
            self._say(f"{self._training.settings.axis} {row.number}, {figures}")

    def _done(self) -> float:
        training = self._training
        if training.settings.epochs is not None:
            return training.epochs_done
        return training.plan.done(training.position)

    def _tenth(self) -> int:
        training = self._training
        if training.is_over:
            return LINES
        return int(LINES * training.plan.share(training.position) + 1e-9)


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request to stop after the running step.

    A second one ends the process at once, unless it is one of several ranks: torchrun passes on a
    signal that they may have got already, and ends them itself if they do not stop.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.asked = False
        self._ranks = ranks
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        if self._ranks.size == 1:
            signal.signal(number, signal.SIG_DFL)
