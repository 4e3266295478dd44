"""Export one trained variant to ONNX after comparing ONNX Runtime's results with torch's."""

import argparse
from pathlib import Path

import torch

from gru_lm.core.errors import say
from gru_lm.core.files import write_bytes
from gru_lm.core.params import load_params
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared
from gru_lm.evaluation.settings import EvaluationSettings
from gru_lm.export.check import (
    freshly_initialised,
    largest_differences,
    require_agreement,
    to_onnx,
)
from gru_lm.models.base import load_model
from gru_lm.results.export import ExportCheck
from stages import add_variant, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    variant: Variant = parser.parse_args().variant

    limit = load_params(EvaluationSettings).evaluate.max_tokens
    torch.set_num_threads(1)  # makes the differences independent of the number of cores
    prepared = Prepared()
    vocabulary = prepared.vocabulary
    model = load_model(Path("models") / variant, vocabulary.fingerprint, variant)
    tokens = prepared.tokens("val")[:limit]
    data = to_onnx(model, vocabulary)
    found = largest_differences(model, data, tokens)
    require_agreement(found)
    initial_model = freshly_initialised(model)
    initial = largest_differences(initial_model, to_onnx(initial_model, vocabulary), tokens)
    require_agreement(initial)
    write_bytes(Path(f"exports/{variant}.onnx"), data)
    ExportCheck.model_validate({**found, "initial": initial, "tokens_compared": len(tokens)}).write(
        Path(f"metrics/export/{variant}.json")
    )
    say(
        f"export@{variant}",
        f"{len(data):,} bytes; ONNX Runtime's logits differ from torch's by at most "
        f"{found['max_logit_difference']:.1e}, which is "
        f"{found['max_relative_logit_difference']:.1e} of a step's largest logit; with freshly "
        f"initialised weights by {initial['max_logit_difference']:.1e} and "
        f"{initial['max_relative_logit_difference']:.1e}",
    )


if __name__ == "__main__":
    run_stage("export", main)
