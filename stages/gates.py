"""What the gates of one variant do: their activity, their memory, and what is lost without them.

For a variant without such gates the JSON file says so under ``left_out``, and there are no arrays.
"""

import argparse
from pathlib import Path

import torch

from gru_lm.core.params import load_params
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.evaluation.words import places
from gru_lm.gate_study.interventions import study
from gru_lm.gate_study.reading import (
    activity,
    context_curve,
    describe_time_constants,
    effective_context,
    read,
    time_constants,
)
from gru_lm.gate_study.settings import GateStudySettings
from gru_lm.models.base import load_model
from gru_lm.results.gates import PASSAGES, GateArrays, GateStudy, LeftOut, write_no_arrays
from stages import add_variant, run_stage


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
    path = Path(f"analysis/gates/{variant}.json")
    if gates is None:
        reason = f"{variant} has no gates to read"
        print(f"gates@{variant}: {reason}: left out")
        write_no_arrays(path.with_suffix(".npz"), vocabulary.fingerprint)
        LeftOut(left_out=reason).write(path)
        return
    splits = {name: prepared.tensor(name) for name in PASSAGES}
    traces = {n: read(gates, t, passage.start, passage.length) for n, t in splits.items()}
    train = traces["train"]
    constants = time_constants(train.mean_Z)

    arrays = GateArrays(
        readings={name: trace.passage for name, trace in traces.items()},
        mean_Z=train.mean_Z.astype("float32"),
        mean_R=train.mean_R.astype("float32"),
        time_constant=constants.astype("float32"),
    )
    context = {n: context_curve(gates, t, traces[n].bits) for n, t in splits.items()}
    results = {
        "time_constant": describe_time_constants(constants),
        "activity": {
            n: activity(traces[n], places(t.numpy(), vocabulary)) for n, t in splits.items()
        },
        "context": context,
        "effective_context": {n: effective_context(curve) for n, curve in context.items()},
        "interventions": study(gates, splits["train"], train),
    }
    arrays.write(path.with_suffix(".npz"), vocabulary.fingerprint)
    GateStudy.model_validate(results).write(path)


if __name__ == "__main__":
    run_stage("gates", main)
