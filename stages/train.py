"""Train one variant; log the perplexity of each epoch, keep the weights, note the speed."""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import get_args

import torch
from dvclive import Live
from tqdm import tqdm

from gru_lm.device import choose_device, describe_device
from gru_lm.errors import run_stage
from gru_lm.files import write_json
from gru_lm.model import build_model
from gru_lm.settings import Variant, load_settings
from gru_lm.tokens import load_split
from gru_lm.training import train
from gru_lm.vocabulary import Vocabulary

PREPARED = Path("data/prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    variant: Variant = parser.parse_args().variant

    settings = load_settings()
    vocabulary = Vocabulary.load(PREPARED / "vocab.json")
    tokens = torch.from_numpy(load_split(PREPARED, "train", len(vocabulary)).astype("int64"))
    device = choose_device(settings.device)
    print(f"train@{variant}: on {describe_device(device)}", flush=True)

    torch.manual_seed(settings.train.seed)
    model = build_model(variant, len(vocabulary), **settings.model.options(variant)).to(device)

    start = time.perf_counter()
    epochs = []
    interactive = sys.stderr.isatty()
    with (
        Live(f"dvclive/{variant}", save_dvc_exp=False, dvcyaml=False) as live,
        tqdm(total=settings.train.epochs, unit="epoch", disable=not interactive) as bar,
    ):
        for epoch in train(model, tokens, settings.train):
            epochs.append(epoch)
            live.step = epoch.number
            live.log_metric("train/perplexity", epoch.perplexity)
            live.make_summary()
            speed = epoch.tokens / epoch.seconds
            bar.set_postfix_str(f"perplexity {epoch.perplexity:.3f}, {speed:,.0f} tokens/s")
            bar.update()
            if not interactive and epoch.number % max(1, settings.train.epochs // 10) == 0:
                print(
                    f"train@{variant}: epoch {epoch.number}, perplexity {epoch.perplexity:.3f}, "
                    f"{speed:,.0f} tokens/s",
                    flush=True,
                )
    seconds = time.perf_counter() - start

    model.save(Path("models") / variant, vocabulary.fingerprint)
    write_json(
        Path(f"metrics/train/{variant}.json"),
        {
            "perplexity": epochs[-1].perplexity,
            "epochs": len(epochs),
            "tokens_per_epoch": epochs[-1].tokens,
            "parameters": sum(weight.numel() for weight in model.parameters()),
        },
    )
    write_json(
        Path(f"metrics/timing/{variant}.json"),
        {
            "tokens_per_second": statistics.median(
                epoch.tokens / epoch.seconds for epoch in epochs
            ),
            "seconds": seconds,
            "device": describe_device(device),
            "torch": torch.__version__,
        },
    )


if __name__ == "__main__":
    run_stage("train", main)
