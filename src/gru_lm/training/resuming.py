"""Going on from a checkpoint: which state a training can start from, and why not from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from gru_lm.core.errors import DamagedFile, UnusableFile, one_line
from gru_lm.training.checkpoints import Checkpoints, read, steps_of
from gru_lm.training.loop import Training
from gru_lm.training.schedule import depends_on_length
from gru_lm.training.state import Outline, largest, restore


def resume(training: Training, checkpoints: Checkpoints, say: Callable[[str], None]) -> None:
    """Bring ``training`` to the newest usable state in ``checkpoints``, if there is one.

    That is the last state of an interrupted run, or that of a finished run that was shorter. Both
    may have had another length. ``say`` gets one line for each damaged file, and one that says
    from where the training goes on, or why it starts anew although there are checkpoints. Only the
    first of several ranks reads the files, and the others get the state from it.
    """
    ranks = training.ranks
    restored = _restored(training, checkpoints, say) if ranks.first else None
    received = ranks.tensors_of_first(restored)
    if received and not ranks.first:
        restore(training, received)


def _restored(
    training: Training, checkpoints: Checkpoints, say: Callable[[str], None]
) -> dict[str, Tensor] | None:
    """Restore the newest usable state and return it, or None if there is none."""
    longer = False
    for path in checkpoints.unfinished():
        try:
            tensors = read(path, largest(training, steps_of(path)))
            outline = Outline.of(tensors)
            over = training.plan.is_over(outline.position)
            if over and outline.length != training.settings.length:
                longer = True
                continue
            if over and outline.validated:
                raise ValueError("its run has ended")
            if outline.position.steps != steps_of(path):
                raise ValueError("its number of steps is not the one in its name")
            restore(training, tensors)
        except (OSError, ValueError, UnusableFile) as error:
            _warn(path, error, "the one before it", say)
            continue
        say(f"going on after {training.position} of a run that was interrupted")
        return tensors
    return _extended(training, checkpoints, say, longer)


def _extended(
    training: Training, checkpoints: Checkpoints, say: Callable[[str], None], longer: bool
) -> dict[str, Tensor] | None:
    """Go on from the last state of a finished run, if it was shorter."""
    reason = "an interrupted run went on for longer" if longer else ""
    for path in checkpoints.finished()[:1]:
        try:
            tensors = read(path, largest(training, steps_of(path)))
            outline = Outline.of(tensors)
            if training.plan.is_over(outline.position):
                same = outline.length == training.settings.length
                reason = f"the finished run is {'as long' if same else 'longer'}"
                continue
            patience = training.settings.patience
            if patience is not None and outline.waited >= patience:
                reason = "train.patience ended the finished run"
                continue
            restore(training, tensors)
        except (OSError, ValueError, UnusableFile) as error:
            _warn(path, error, "the start", say)
            continue
        say(f"going on after {training.position} of a finished run")
        return tensors
    setting = depends_on_length(training.settings)
    if not reason and setting and checkpoints.of_other_lengths():
        reason = f"with {setting} each step depends on the length of the run, which is another"
    if reason:
        say(f"training from the start: {reason}")
    return None


def _warn(path: Path, error: Exception, instead: str, say: Callable[[str], None]) -> None:
    why = one_line(error.why if isinstance(error, DamagedFile) else error, 300)
    say(f"checkpoint {path} is damaged ({why}): going on from {instead}")
