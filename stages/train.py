"""Train one variant; write its weights, curves, figures and speed to training/.

The stage evaluate measures the model there and publishes all of it. A run that was killed resumes
from its last checkpoint if it is started again. While it runs, ``dvc exp show`` and the VS Code
extension for DVC follow it by the files in live/.
"""

import argparse
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from dvclive import Live
from scmrepo.exceptions import SCMError

from gru_lm.core.errors import say
from gru_lm.core.files import write_text
from gru_lm.core.params import load_params, require_unchanged
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.models.settings import ModelSettings
from gru_lm.results.training import Best, Timing, Training, write_curve
from gru_lm.training.launch import launched
from gru_lm.training.ranks import Ranks, joined
from gru_lm.training.run import Log, TrainingRun, alone
from gru_lm.training.settings import TrainingSettings
from stages import add_variant, run_stage

# Declares the live files to DVC. It is there only while a training runs.
LIVE_PIPELINE = """\
metrics:
- metrics.json
plots:
- plots/metrics:
    x: step
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    variant: Variant = parser.parse_args().variant
    if launched("stages.train", load_params(TrainingSettings).train.processes):
        return
    with joined(load_params(CoreSettings).device) as ranks, alone(variant, ranks):
        train(variant, ranks)


def train(variant: Variant, ranks: Ranks) -> None:
    settings, prepared = load_params(TrainingSettings), Prepared()
    run = TrainingRun(
        name=variant,
        variant=variant,
        options=load_params(ModelSettings).model.options(variant),
        settings=settings,
        device=load_params(CoreSettings).device,
        prepared=prepared,
        script=Path(__file__),
        say=lambda line: say(f"train@{variant}", line),
        ranks=ranks,
    )
    if not ranks.first:
        run.train()
        return
    start = time.perf_counter()
    with followed(variant) as log:
        speeds = run.train(log)
    seconds = time.perf_counter() - start

    folder, history = Path("training") / variant, run.history
    last, best, selected = history.curve[-1], history.best, run.selected
    training = Training(
        perplexity=last.perplexity,
        val_perplexity=dict(run.validation).get(run.number(last)),
        best_val=Best.at(best),
        epochs=last.epoch,
        seed=settings.train.seed,
        selected_epoch=selected.epoch,
        parameters=sum(weight.numel() for weight in run.model.parameters()),
        steps=last.step,
        selected_step=selected.step,
        tokens=history.targets,
        axis=settings.train.axis,
    )
    timing = Timing(
        tokens_per_second=statistics.median(speeds),
        seconds=seconds,
        epochs_timed=len(speeds),
        device=run.device,
        torch=torch.__version__,
    )
    require_unchanged()  # while its checkpoints are there to resume from
    run.save(folder)
    write_curve(folder / "train.tsv", run.curve)
    write_curve(folder / "val.tsv", run.validation)
    training.write(folder / "training.json")
    timing.write(folder / "timing.json")
    run.finish()


@contextmanager
def followed(variant: Variant) -> Iterator[Log]:
    """Log each row's figures for DVC in live/<variant>/, which is deleted after the block.

    DVC reads the folder's own dvc.yaml. So nothing that an earlier training left is touched before
    this one has succeeded, and a finished one adds no columns to ``dvc exp show``. In a git
    repository without a commit DVCLive does not start, and nothing is logged.
    """
    folder = Path("live") / variant
    try:
        started = Live(str(folder), save_dvc_exp=False, dvcyaml=None)
    except SCMError as error:
        say(
            f"train@{variant}",
            f"no live figures for dvc exp show ({error}): make a first commit to have them",
        )
        started = None
    try:
        if started is None:
            yield lambda *_: None
            return
        with started as live:
            write_text(folder / "dvc.yaml", LIVE_PIPELINE)  # whole: DVC may read it at any moment

            def log(number: int, perplexity: float, val_perplexity: float | None) -> None:
                live.step = number
                live.log_metric("train/perplexity", perplexity)
                if val_perplexity is not None:
                    live.log_metric("val/perplexity", val_perplexity)
                live.make_summary()

            yield log
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run_stage("train", main)
