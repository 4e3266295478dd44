"""A training run, from the prepared data to the selected weights.

It writes a checkpoint every ``checkpoint.every`` epochs or steps, and one when it is asked to stop.
If it is started again, it goes on from the last one and ends with the same bytes as a run without
an interruption. A finished run can be extended in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from gru_lm.core.errors import Interrupted, UserError
from gru_lm.core.files import array_writer
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.models.base import BEST, CONFIG, WEIGHTS, build_model, set_loop_threads
from gru_lm.models.device import DeviceChoice, choose_device, describe_device, make_deterministic
from gru_lm.results.training import TIMES_TRAINED
from gru_lm.training.checkpoints import Checkpoints, fingerprint
from gru_lm.training.coverage import TimesTrained
from gru_lm.training.following import Progress, StopRequest
from gru_lm.training.history import History, Point
from gru_lm.training.idle_cores import IdleCores
from gru_lm.training.initial import initial_folder, load_initial
from gru_lm.training.loop import Diverged, Training
from gru_lm.training.minibatches import require_enough_tokens
from gru_lm.training.optimizers import remedy
from gru_lm.training.ranks import ALONE, Ranks
from gru_lm.training.resuming import resume
from gru_lm.training.schedule import depends_on_length
from gru_lm.training.settings import TrainingSettings
from gru_lm.training.state import to_tensors

# Receives the number of a row, its training perplexity and its validation perplexity, if measured.
Log = Callable[[int, float, float | None], None]

CHECKPOINTS = Path(".checkpoints")
AGREED = 4  # steps between two agreements of several ranks to stop

# Settings that change no result, or are among what determines a run in another form.
NO_DETERMINANTS = {"epochs", "steps", "minutes", "init_from", "idle_cores", "processes"}


@contextmanager
def alone(name: str, ranks: Ranks = ALONE) -> Iterator[None]:
    """Keep other processes in this folder from the training ``name``: both would write its curve.

    Only the first of several ``ranks`` writes, so it alone takes the lock.

    Raises UserError if another process runs it.
    """
    if not ranks.first:
        yield
        return
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
        with suppress(OSError):  # a system that keeps an open file locked
            path.unlink()
        lock.release()


class TrainingRun:
    """One training of ``variant`` with ``options``, from the seed ``settings.train.seed``.

    It trains on the training split of ``prepared`` and is validated on the validation split.
    ``options`` are the keyword arguments of the variant's constructor except the vocabulary size.
    ``name`` distinguishes its checkpoints from those of other runs. ``script`` is the file of the
    stage, whose content is part of what determines the run. ``say`` gets each line for the user.
    With several ``ranks`` each has a TrainingRun, and only the first writes files and lines.

    Raises UserError if the prepared data, the device or the initial model is missing or unusable.
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
        ranks: Ranks = ALONE,
    ) -> None:
        train = settings.train
        if not ranks.first:
            say = _nothing
        self._settings, self._say, self._ranks = settings, say, ranks
        self.vocabulary = prepared.vocabulary
        self._tokens = prepared.tensor("train")
        val_tokens = prepared.tensor("val")[: train.validate_tokens]
        # Before anything of an earlier run is touched.
        require_enough_tokens(len(self._tokens), train.batch_size, train.num_steps)
        if train.threads is not None:
            torch.set_num_threads(train.threads)
        if train.deterministic:
            make_deterministic()
        chosen = choose_device(device)
        self.device = describe_device(chosen)
        shared = f", in {ranks.size} processes" if ranks.size > 1 else ""
        say(f"on {self.device}{shared}")
        torch.manual_seed(train.seed)
        self.model = build_model(variant, len(self.vocabulary), **options).to(chosen)
        determinants: dict[str, Any] = {
            "options": dict(options),
            "train": train.model_dump(exclude=NO_DETERMINANTS),
            "length": train.length_key,
            "vocabulary": self.vocabulary.fingerprint,
            "tokens": fingerprint(prepared.path("train"), prepared.path("val")),
            "code": fingerprint(script, *_loaded_modules()),
            "device": self.device.partition(",")[0],  # without the number of threads
            "torch": torch.__version__,
        }
        if train.init_from is not None:
            folder = initial_folder(train.init_from, variant)
            load_initial(self.model, folder, self.vocabulary.fingerprint)
            determinants["init_from"] = fingerprint(folder / CONFIG, folder / WEIGHTS)
            say(f"starting from the weights in {folder}")
        self._end: dict[str, Tensor] = {}
        self.training = Training(
            self.model, self._tokens, train, val_tokens, at_end=self._keep_the_end, ranks=ranks
        )
        length = train.length if depends_on_length(train) else None
        self.checkpoints = Checkpoints.of(CHECKPOINTS, name, determinants, length)
        ranks.require_same(self.checkpoints.folder.name)
        resume(self.training, self.checkpoints, say)

    @property
    def history(self) -> History:
        """The curves so far."""
        return self.training.history

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The rows (number, training perplexity); a number counts epochs or steps."""
        return [(self.number(point), point.perplexity) for point in self.history.curve]

    @property
    def validation(self) -> list[tuple[int, float]]:
        """The rows (number, validation perplexity) of the validations that are finite."""
        return [(self.number(point), point.perplexity) for point in self.history.validation]

    def number(self, point: Point) -> int:
        """Return the number of the epoch or step of ``point``, as ``Train.axis`` says."""
        return point.epoch if self._settings.train.axis == "epoch" else point.step

    @property
    def selected(self) -> Point:
        """The point whose weights are kept: the last so far, or the best in validation."""
        history = self.history
        if self._settings.train.select == "last" or history.best is None:
            return history.curve[-1]
        return history.best

    def train(self, log: Log | None = None) -> list[float]:
        """Train what is left of the run; ``model`` then has the selected weights, in eval mode.

        ``log`` is called for every row of the run in turn, those before an interruption included.
        Returns the speed of each row trained now, in tokens per second.

        Raises Interrupted if SIGINT or SIGTERM asked for it, and Diverged if the loss is no longer
        finite, or if no validation was finite. What was reached before is then in a checkpoint.
        """
        history, training = self.history, self.training
        validated = dict(self.validation)
        for number, perplexity in self.curve:
            if log is not None:
                log(number, perplexity, validated.get(number))
        try:
            speeds = self._train_the_rest(log)
            if not history.validation:
                raise Diverged(
                    "training diverged: the validation perplexity was never finite; "
                    f"{remedy(self._settings.train)}"
                )
        except Diverged:
            if history.curve:
                self._save()
                kept = self.checkpoints.folder
                self._say(f"the weights of {training.position} are kept in {kept}")
            raise
        if training.average is not None:
            training.average.apply()
        if self._settings.train.select == "best_val" and history.best_weights is not None:
            self.model.load_weights(history.best_weights)
        self.model.eval()
        return speeds

    def save(self, folder: Path) -> None:
        """Write the selected model to ``folder``, and the best in validation to its ``BEST``.

        ``TIMES_TRAINED`` has the number of epochs in which each target was trained up to the
        selected point. Call this after ``train``.
        """
        vocabulary, selected = self.vocabulary.fingerprint, self.selected
        self.model.save(folder, vocabulary)
        self.model.save(folder / BEST, vocabulary, self.history.best_weights)
        times = TimesTrained(len(self._tokens), self._settings.train, selected.epoch, selected.step)
        path = folder / TIMES_TRAINED
        with array_writer(path, times.dtype, (len(times),), owner=vocabulary) as append:
            for piece in times.pieces():
                append(piece)

    def finish(self) -> None:
        """Replace the checkpoints by the last state, from which the run can be extended.

        Call this when all results are written. Until then a run that is killed can go on from its
        last checkpoint.
        """
        if self._end:
            self.checkpoints.finish(self.training.position.steps, self._end)

    def _save(self) -> None:
        """Write a checkpoint."""
        tensors = to_tensors(self.training)
        if self._ranks.first:
            self.checkpoints.save(self.training.position.steps, tensors)

    def _keep_the_end(self) -> None:
        self._end = to_tensors(self.training)

    def _train_the_rest(self, log: Log | None) -> list[float]:
        training = self.training
        speeds: list[float] = []
        stop = StopRequest(self._ranks)
        with Progress(training, self._say) as progress, self._idle_cores() as use_idle_cores:
            while not training.is_over:
                use_idle_cores()
                row = training.advance()
                progress.step()
                if row is not None:
                    speeds.append(row.tokens / row.seconds)
                    if log is not None:
                        log(row.number, row.perplexity, row.val_perplexity)
                    progress.row(row)
                due = training.plan.is_due(self._settings.checkpoint.every, training.position)
                asked = self._is_asked(stop)
                if not training.is_over and (asked or due):
                    self._save()
                    if asked:
                        raise Interrupted(
                            f"interrupted after {training.position}; run it again to go on from "
                            "there"
                        )
        return speeds

    @contextmanager
    def _idle_cores(self) -> Iterator[Callable[[], None]]:
        """Yield a function that lets loops use the cores that are idle now."""
        if not self._settings.train.idle_cores or self.model.device.type != "cpu":
            yield lambda: None
            return
        cores = IdleCores()
        try:
            yield lambda: set_loop_threads(cores.threads())
        finally:
            set_loop_threads(1)

    def _is_asked(self, stop: StopRequest) -> bool:
        """Return whether to stop now, which all ranks answer alike."""
        if self._ranks.size > 1 and self.training.position.steps % AGREED:
            return False
        return self._ranks.any(stop.asked)


def _nothing(line: str) -> None:
    """Print nothing."""


def _loaded_modules() -> list[Path]:
    """Return the library's modules that the running stage computes with.

    Settings are left out: their values are among the determinants, and those of other packages are
    loaded only to be validated.
    """
    files = [
        module.__file__
        for name, module in sys.modules.items()
        if name.startswith("gru_lm") and module.__file__ and not name.endswith(".settings")
    ]
    return [Path(file) for file in sorted(files)]
