"""What the gates of one variant do: their activity, their memory, and what is lost without them.

For a variant without such gates the JSON file says so under ``left_out``, and there are no arrays.
"""

import argparse
from pathlib import Path

import torch

from gru_lm.core.files import write_arrays, write_json
from gru_lm.core.params import load_params
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
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
from gru_lm.gate_study.settings import GateStudySettings
from gru_lm.models.base import load_model
from stages import add_variant, run_stage

SPLITS = ("train", "val")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    variant: Variant = parser.parse_args().variant

    torch.set_num_threads(1)  # a sum's last bit depends on the number of threads
    passage = load_params(GateStudySettings).gate_study
    prepared = Prepared()
    vocabulary = prepared.vocabulary
    model = load_model(Path("models") / variant, vocabulary.fingerprint, variant)
    gates = model.gates()
    outputs = Path("analysis/gates")
    arrays_path, results_path = outputs / f"{variant}.npz", outputs / f"{variant}.json"
    if gates is None:
        reason = f"{variant} has no gates to read"
        print(f"gates@{variant}: {reason}: left out")
        write_arrays(arrays_path, {}, owner=vocabulary.fingerprint)
        write_json(results_path, {"left_out": reason})
        return
    splits = {name: prepared.tensor(name) for name in SPLITS}
    readings = {n: read(gates, t, passage.start, passage.length) for n, t in splits.items()}
    train = readings["train"]
    constants = time_constants(train.mean_Z)

    arrays = {f"{n}_{key}": array for n, r in readings.items() for key, array in r.passage.items()}
    arrays["mean_Z"] = train.mean_Z.astype("float32")
    arrays["mean_R"] = train.mean_R.astype("float32")
    arrays["time_constant"] = constants.astype("float32")

    context = {n: context_curve(gates, t, readings[n].bits) for n, t in splits.items()}
    results = {
        "time_constant": describe_time_constants(constants),
        "activity": {
            n: activity(readings[n], places(t.numpy(), vocabulary)) for n, t in splits.items()
        },
        "context": context,
        "effective_context": {n: effective_context(curve) for n, curve in context.items()},
        "interventions": study(gates, splits["train"], train),
    }
    write_arrays(arrays_path, arrays, owner=vocabulary.fingerprint)
    write_json(results_path, results)


if __name__ == "__main__":
    run_stage("gates", main)
