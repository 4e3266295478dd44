"""Train one variant; log the perplexity of each epoch, keep the weights, note the speed.

A run that was killed goes on from its last checkpoint when it is started again.
"""

import argparse
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import get_args

import torch
from dvclive import Live
from tqdm import tqdm

from gru_lm.checkpoint import Checkpoints, fingerprint
from gru_lm.device import choose_device, describe_device, make_deterministic
from gru_lm.errors import Interrupted, run_stage
from gru_lm.files import write_json
from gru_lm.model import LanguageModel, build_model
from gru_lm.settings import Settings, Variant, load_settings
from gru_lm.tokens import load_split
from gru_lm.training import Diverged, make_optimizer, train
from gru_lm.vocabulary import Vocabulary

PREPARED = Path("data/prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    variant: Variant = parser.parse_args().variant

    settings = load_settings()
    vocabulary = Vocabulary.load(PREPARED / "vocab.json")
    tokens = torch.from_numpy(load_split(PREPARED, "train", len(vocabulary)).astype("int64"))
    if settings.train.threads is not None:
        torch.set_num_threads(settings.train.threads)
    if settings.train.deterministic:
        make_deterministic()
    device = choose_device(settings.device)
    _say(variant, f"on {describe_device(device)}")
    torch.manual_seed(settings.train.seed)
    options = settings.model.options(variant)
    model = build_model(variant, len(vocabulary), **options).to(device)
    optimizer = make_optimizer(model, settings.train)

    checkpoints = Checkpoints.of(
        Path(".checkpoints"),
        variant,
        {
            "options": options,
            "train": settings.train.model_dump(),
            "vocabulary": vocabulary.fingerprint,
            "tokens": fingerprint(PREPARED / "train.npy"),
            "code": fingerprint(*_loaded_modules()),
            "device": describe_device(device),
            "torch": torch.__version__,
        },
    )
    curve = checkpoints.resume(model, optimizer, warn=lambda line: _say(variant, line))
    resumed_from = len(curve)
    if resumed_from:
        _say(variant, f"going on after epoch {resumed_from} of a run that was interrupted")

    start = time.perf_counter()
    try:
        speeds = _train(variant, settings, model, tokens, optimizer, checkpoints, curve)
    except Diverged:
        if curve:
            checkpoints.save(model, optimizer, curve)
            _say(variant, f"the weights of the epoch before are kept in {checkpoints.folder}")
        raise
    seconds = time.perf_counter() - start

    model.save(Path("models") / variant, vocabulary.fingerprint)
    write_json(
        Path(f"metrics/train/{variant}.json"),
        {
            "perplexity": curve[-1],
            "epochs": len(curve),
            "parameters": sum(weight.numel() for weight in model.parameters()),
        },
    )
    write_json(
        Path(f"metrics/timing/{variant}.json"),
        {
            "tokens_per_second": statistics.median(speeds),
            "seconds": seconds,
            "epochs_timed": len(speeds),
            "device": describe_device(device),
            "torch": torch.__version__,
        },
    )
    checkpoints.remove()


def _train(
    variant: Variant,
    settings: Settings,
    model: LanguageModel,
    tokens: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    curve: list[float],
) -> list[float]:
    """Train the epochs that ``curve`` lacks and add their perplexities to it.

    Each epoch is logged and shown as it ends. Returns the tokens a second of each.
    """
    speeds: list[float] = []
    stop = StopRequest()
    epochs, resumed_from = settings.train.epochs, len(curve)
    interactive = sys.stderr.isatty()
    with (
        Live(f"dvclive/{variant}", save_dvc_exp=False, dvcyaml=False) as live,
        tqdm(total=epochs, initial=resumed_from, unit="epoch", disable=not interactive) as bar,
    ):
        for number, perplexity in enumerate(curve, start=1):
            live.step = number
            live.log_metric("train/perplexity", perplexity)
        for epoch in train(model, tokens, settings.train, optimizer, resumed_from + 1):
            curve.append(epoch.perplexity)
            live.step = epoch.number
            live.log_metric("train/perplexity", epoch.perplexity)
            live.make_summary()
            speeds.append(epoch.tokens / epoch.seconds)
            progress = f"perplexity {epoch.perplexity:.3f}, {speeds[-1]:,.0f} tokens/s"
            bar.set_postfix_str(progress)
            bar.update()
            if not interactive and epoch.number % max(1, epochs // 10) == 0:
                _say(variant, f"epoch {epoch.number}, {progress}")
            last = epoch.number == epochs
            if not last and (stop.asked or epoch.number % settings.checkpoint.every == 0):
                checkpoints.save(model, optimizer, curve)
                if stop.asked:
                    raise Interrupted(
                        f"interrupted after epoch {epoch.number}; run it again to go on from there"
                    )
    return speeds


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
    """This script and the library's modules that it uses."""
    files = [
        module.__file__
        for name, module in sys.modules.items()
        if name.startswith("gru_lm") and module.__file__
    ]
    return [Path(__file__), *map(Path, sorted(files))]


def _say(variant: str, line: str) -> None:
    print(f"train@{variant}: {line}", flush=True)


if __name__ == "__main__":
    run_stage("train", main)
