"""A training run, from the prepared data to the selected weights, that outlives its process.

It keeps a checkpoint every ``checkpoint.every`` epochs, and another where it is asked to stop.
Started again, it goes on from the last one and ends with the same bytes as a run left alone.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from gru_lm.core.errors import Interrupted, UserError
from gru_lm.core.files import write_array
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.models.base import BEST, build_model
from gru_lm.models.device import DeviceChoice, choose_device, describe_device, make_deterministic
from gru_lm.results.training import TIMES_TRAINED
from gru_lm.training.checkpoints import Checkpoints, fingerprint
from gru_lm.training.coverage import times_trained
from gru_lm.training.loop import Diverged, Epoch, make_optimizer, remedy, train
from gru_lm.training.minibatches import require_enough_tokens
from gru_lm.training.settings import TrainingSettings

# Receives an epoch's number, its training perplexity and its validation perplexity, if measured.
Log = Callable[[int, float, float | None], None]

CHECKPOINTS = Path(".checkpoints")


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Keep other processes from the training ``name`` in this folder: both would write its curve.

    Raises UserError where another process is at it.
    """
    CHECKPOINTS.mkdir(exist_ok=True)
    path = CHECKPOINTS / f"{name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another process is training {name} in {Path.cwd()}: wait for its end, or stop it"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # a system that does not let go of an open file
            path.unlink()
        lock.release()


class TrainingRun:
    """One training of ``variant`` with ``options``, from the seed ``settings.train.seed``.

    It learns from the training split of ``prepared`` and is measured on the validation split.
    ``options`` are the keyword arguments of the variant's constructor but the vocabulary size.
    ``name`` tells its checkpoints from those of other runs, whose code differs if their ``script``
    does. ``say`` gets each line that a person should read.

    Raises UserError if the prepared data or the device is missing or cannot be used.
    """

    def __init__(
        self,
        name: str,
        variant: Variant,
        options: Mapping[str, Any],
        settings: TrainingSettings,
        device: DeviceChoice,
        prepared: Prepared,
        script: Path,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._say = settings, say
        self.vocabulary = prepared.vocabulary
        self._tokens, self._val_tokens = prepared.tensor("train"), prepared.tensor("val")
        # Before anything of an earlier run is touched.
        require_enough_tokens(
            len(self._tokens), settings.train.batch_size, settings.train.num_steps
        )
        if settings.train.threads is not None:
            torch.set_num_threads(settings.train.threads)
        if settings.train.deterministic:
            make_deterministic()
        chosen = choose_device(device)
        self.device = describe_device(chosen)
        say(f"on {self.device}")
        torch.manual_seed(settings.train.seed)
        self.model = build_model(variant, len(self.vocabulary), **options).to(chosen)
        self._optimizer = make_optimizer(self.model, settings.train)
        self.checkpoints = Checkpoints.of(
            CHECKPOINTS,
            name,
            {
                "options": dict(options),
                "train": settings.train.model_dump(),
                "vocabulary": self.vocabulary.fingerprint,
                "tokens": fingerprint(prepared.path("train"), prepared.path("val")),
                "code": fingerprint(script, *_loaded_modules()),
                "device": self.device,
                "torch": torch.__version__,
            },
        )
        self.history = self.checkpoints.resume(
            self.model,
            self._optimizer,
            warn=say,
            most_epochs=settings.train.epochs,
            with_best=True,
        )
        if epochs_done := len(self.history.curve):
            say(f"going on after epoch {epochs_done} of a run that was interrupted")

    @property
    def selected_epoch(self) -> int:
        """The epoch whose weights are kept: the last one so far, or the best in validation."""
        history = self.history
        if self._settings.train.select == "last" or history.best_epoch is None:
            return len(history.curve)
        return history.best_epoch

    def train(self, log: Log | None = None) -> list[float]:
        """Train the epochs that are still to do; ``model`` then has the selected weights.

        ``log`` is called for every epoch of the run in turn, those before an interruption included.
        Returns the speed of each epoch trained now, in tokens a second.

        Raises Interrupted where SIGINT or SIGTERM asked for it, and Diverged where the loss stops
        being a number, or no look at the validation split gave one. What was reached before is then
        kept in a checkpoint.
        """
        history = self.history
        for number, perplexity in enumerate(history.curve, start=1):
            if log is not None:
                log(number, perplexity, history.validation.get(number))
        try:
            speeds = self._train_the_rest(log)
            if not history.validation:
                raise Diverged(
                    "training diverged: the validation perplexity was never finite; "
                    f"{remedy(self._settings.train)}"
                )
        except Diverged:
            if history.curve:
                self.checkpoints.save(self.model, self._optimizer, history)
                self._say(f"the weights of the epoch before are kept in {self.checkpoints.folder}")
            raise
        if self._settings.train.select == "best_val" and history.best_weights is not None:
            self.model.load_weights(history.best_weights)
        return speeds

    def save(self, folder: Path) -> None:
        """Write the model to ``folder`` and, to its subfolder ``BEST``, the best one in validation.

        After ``train``, ``folder`` thus has the selected weights. ``BEST`` has those of the lowest
        validation perplexity whatever is selected. ``TIMES_TRAINED`` says how often each target was
        trained up to the selected epoch.
        """
        vocabulary = self.vocabulary.fingerprint
        self.model.save(folder, vocabulary)
        self.model.save(folder / BEST, vocabulary, self.history.best_weights)
        times = times_trained(len(self._tokens), self._settings.train, self.selected_epoch)
        write_array(folder / TIMES_TRAINED, times, owner=vocabulary)

    def _train_the_rest(self, log: Log | None) -> list[float]:
        settings, history = self._settings.train, self.history
        epochs, done = settings.epochs, len(history.curve)
        speeds: list[float] = []
        stop = StopRequest()
        interactive = sys.stderr.isatty()
        with tqdm(total=epochs, initial=done, unit="epoch", disable=not interactive) as bar:
            for epoch in train(
                self.model, self._tokens, settings, self._optimizer, done + 1, self._val_tokens
            ):
                self._note(epoch)
                if log is not None:
                    log(epoch.number, epoch.perplexity, epoch.val_perplexity)
                speeds.append(epoch.tokens / epoch.seconds)
                progress = f"perplexity {epoch.perplexity:.3f}, {speeds[-1]:,.0f} tokens/s"
                bar.set_postfix_str(progress)
                bar.update()
                if not interactive and epoch.number % max(1, epochs // 10) == 0:
                    self._say(f"epoch {epoch.number}, {progress}")
                due = epoch.number % self._settings.checkpoint.every == 0
                if epoch.number < epochs and (stop.asked or due):
                    self.checkpoints.save(self.model, self._optimizer, history)
                    if stop.asked:
                        raise Interrupted(
                            f"interrupted after epoch {epoch.number}; "
                            "run it again to go on from there"
                        )
        return speeds

    def _note(self, epoch: Epoch) -> None:
        self.history.add(epoch)
        if self.history.best_epoch == epoch.number:
            weights = self.model.state_dict()
            self.history.best_weights = {name: value.clone() for name, value in weights.items()}


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request to stop after the running epoch.

    A second one ends the process at once.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


def _loaded_modules() -> list[Path]:
    """The library's modules that the running stage computes with.

    Settings are left out: their values are among the determinants, and those of other packages are
    loaded only to be validated.
    """
    files = [
        module.__file__
        for name, module in sys.modules.items()
        if name.startswith("gru_lm") and module.__file__ and not name.endswith(".settings")
    ]
    return [Path(file) for file in sorted(files)]
