"""Write one trained variant as an ONNX file, once ONNX Runtime computes from it what torch does."""

import argparse
from pathlib import Path
from typing import get_args

import torch

from gru_lm.core.errors import run_stage
from gru_lm.core.files import write_bytes, write_json
from gru_lm.core.params import Variant
from gru_lm.data.splits import load_split
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.generation.onnx_check import largest_differences, require_agreement, to_onnx
from gru_lm.models.base import load_model

PREPARED = Path("data/prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    variant: Variant = parser.parse_args().variant

    torch.set_num_threads(1)  # so that the differences do not depend on the number of cores
    vocabulary = Vocabulary.load(PREPARED / "vocab.json")
    model = load_model(Path("models") / variant, vocabulary.fingerprint)
    tokens = load_split(PREPARED, "val", vocabulary)
    data = to_onnx(model, vocabulary)
    found = largest_differences(model, data, torch.from_numpy(tokens.astype("int64")))
    require_agreement(found)
    write_bytes(Path(f"exports/{variant}.onnx"), data)
    write_json(Path(f"metrics/export/{variant}.json"), found)
    print(
        f"export@{variant}: {len(data):,} bytes; ONNX Runtime's logits differ from torch's by "
        f"{found['max_logit_difference']:.1e} at most, among logits up to {found['max_logit']:.3g}"
    )


if __name__ == "__main__":
    run_stage("export", main)
