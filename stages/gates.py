"""Study one variant's gates: their activity, and the losses with gates held, over all trainings.

The passages, the units' time constants and the activity are those of the training with
``train.seed``. For a variant without gates, the JSON file contains the reason under ``left_out``,
and there are no arrays.
"""

import argparse
from pathlib import Path

import torch

from gru_lm.core.errors import say
from gru_lm.core.params import load_params
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.evaluation.settings import EvaluationSettings
from gru_lm.gate_study.reading import Activity, describe_time_constants, read, time_constants
from gru_lm.gate_study.settings import GateStudySettings
from gru_lm.gate_study.study import Trained, study
from gru_lm.models.base import BEST, load_model
from gru_lm.models.gates import Gates
from gru_lm.results.gates import PASSAGES, GateArrays, GateStudy, LeftOut, write_no_arrays
from gru_lm.training.settings import TrainingSettings
from stages import add_variant, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    variant: Variant = parser.parse_args().variant

    torch.set_num_threads(1)  # a sum's last digit depends on the number of threads
    passage = load_params(GateStudySettings).gate_study
    train = load_params(TrainingSettings).train
    prepared = Prepared()
    vocabulary = prepared.vocabulary

    def gates_of(folder: Path) -> Gates | None:
        return load_model(folder, vocabulary.fingerprint, variant).gates()

    folders = {train.seed: Path("models") / variant}
    evaluation = load_params(EvaluationSettings)
    for seed in evaluation.replicate.seeds:
        folders.setdefault(seed, Path(f"analysis/replicate/{variant}/{seed}"))
    gates = gates_of(folders[train.seed])
    path = Path(f"analysis/gates/{variant}.json")
    if gates is None:
        reason = f"{variant} has no gates to read"
        say(f"gates@{variant}", f"{reason}: left out")
        write_no_arrays(path.with_suffix(".npz"), vocabulary.fingerprint)
        LeftOut(left_out=reason).write(path)
        return
    trainings = []
    for seed, folder in folders.items():
        selected, best = gates_of(folder), gates_of(folder / BEST)
        assert selected is not None and best is not None  # as the first has them
        trainings.append(Trained(seed, {"selected": selected, "best": best}))
    splits = {name: prepared.tokens(name) for name in PASSAGES}
    limit = evaluation.evaluate.max_tokens
    if limit is not None:
        limit = max(limit, passage.start + passage.length)
    traces, activity = {}, {}
    for name, split in splits.items():
        tokens = split[:limit]
        at_places = Activity(tokens, vocabulary) if vocabulary.level == "char" else None
        observe = at_places.add if at_places else None
        traces[name] = read(gates, tokens, passage.start, passage.length, observe=observe)
        activity[name] = at_places.result() if at_places else None
    constants = time_constants(traces["train"].mean_Z)

    arrays = GateArrays(
        readings={name: trace.passage for name, trace in traces.items()},
        mean_Z=traces["train"].mean_Z.astype("float32"),
        mean_R=traces["train"].mean_R.astype("float32"),
        time_constant=constants.astype("float32"),
    )
    results = {
        "seeds": list(folders),
        "selected": train.select,
        "time_constant": describe_time_constants(constants),
        "activity": activity,
        **study(trainings, splits),
    }
    arrays.write(path.with_suffix(".npz"), vocabulary.fingerprint)
    GateStudy.model_validate(results).write(path)


if __name__ == "__main__":
    run_stage("gates", main)
