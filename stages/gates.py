"""What the gates of one variant do: their activity, their memory, and what is lost without them."""

import argparse
from pathlib import Path
from typing import get_args

import torch

from gru_lm.core.errors import run_stage
from gru_lm.core.files import write_arrays, write_json
from gru_lm.core.params import Variant, load_settings
from gru_lm.data.splits import load_split
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.gate_study.interventions import study
from gru_lm.gate_study.reading import (
    activity,
    context_curve,
    describe_time_constants,
    effective_context,
    places,
    read,
    time_constants,
)
from gru_lm.models.base import load_model

PREPARED = Path("data/prepared")
SPLITS = ("train", "val")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    variant: Variant = parser.parse_args().variant

    torch.set_num_threads(1)  # a sum's last bit depends on the number of threads
    passage = load_settings().gates
    vocabulary = Vocabulary.load(PREPARED / "vocab.json")
    weights = load_model(Path("models") / variant, vocabulary.fingerprint).textbook_weights()
    splits = {
        name: torch.from_numpy(load_split(PREPARED, name, vocabulary).astype("int64"))
        for name in SPLITS
    }
    readings = {n: read(weights, t, passage.start, passage.length) for n, t in splits.items()}
    train = readings["train"]
    constants = time_constants(train.mean_Z)

    arrays = {f"{n}_{key}": array for n, r in readings.items() for key, array in r.passage.items()}
    arrays["mean_Z"] = train.mean_Z.astype("float32")
    arrays["mean_R"] = train.mean_R.astype("float32")
    arrays["time_constant"] = constants.astype("float32")

    context = {n: context_curve(weights, t, readings[n].bits) for n, t in splits.items()}
    results = {
        "time_constant": describe_time_constants(constants),
        "activity": {
            n: activity(readings[n], places(t.numpy(), vocabulary)) for n, t in splits.items()
        },
        "context": context,
        "effective_context": {n: effective_context(curve) for n, curve in context.items()},
        "interventions": study(weights, splits["train"], train),
    }
    write_arrays(Path(f"analysis/gates/{variant}.npz"), arrays, owner=vocabulary.fingerprint)
    write_json(Path(f"analysis/gates/{variant}.json"), results)


if __name__ == "__main__":
    run_stage("gates", main)
