"""Generate text with one trained variant.

Without --prefix, the variant continues each prefix of params.yaml, greedily and at each
temperature, and the texts are written to samples/<variant>.txt. With --prefix, it continues that
text once, and the result is printed.
"""

import argparse
import sys
from pathlib import Path

import torch

from gru_lm.core.errors import UserError, printable, say
from gru_lm.core.params import load_params
from gru_lm.data.prepared import Prepared
from gru_lm.generation.sampling import generate
from gru_lm.generation.settings import GenerationSettings
from gru_lm.models.base import load_model
from gru_lm.models.device import describe_device
from gru_lm.results.samples import heading, write_samples
from stages import add_variant, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    parser.add_argument("--prefix", help="continue this text and print the result")
    parser.add_argument("--length", type=int, help="tokens to generate (default: sample.length)")
    parser.add_argument(
        "--temperature", type=float, help="sample at this temperature (default: greedy)"
    )
    parser.add_argument(
        "--top-k", type=int, help="sample from the k most probable (default: sample.top_k)"
    )
    parser.add_argument("--seed", type=int, help="random seed (default: sample.seed)")
    given = parser.parse_args()

    settings = load_params(GenerationSettings).sample
    vocabulary = Prepared().vocabulary
    model = load_model(Path("models") / given.variant, vocabulary.fingerprint, given.variant)
    top_k = settings.top_k if given.top_k is None else given.top_k
    length = settings.length if given.length is None else given.length
    seed = settings.seed if given.seed is None else given.seed
    for option, value, least, most in (
        ("length", length, 1, 1_000_000),
        ("top-k", top_k, 1, 10_000_000),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if value is not None and not least <= value <= most:
            raise UserError(f"--{option} = {value}: must be {least} to {most}")

    def write_on(prefix: str, temperature: float | None) -> str:
        generator = torch.Generator().manual_seed(seed)
        return generate(model, vocabulary, prefix, length, temperature, top_k, generator)

    if given.temperature is not None and not 0 < given.temperature <= 100:
        raise UserError(f"--temperature = {given.temperature:g}: must be over 0, at most 100")
    if given.prefix is not None:
        text = write_on(given.prefix, given.temperature)
        print(printable(text, keep="\n\t") if sys.stdout.isatty() else text)
        return
    # The CPU is faster, because a GPU is mostly idle with one token at a time.
    say(f"sample@{given.variant}", f"on {describe_device(model.device)}")
    samples = {
        heading(temperature): [write_on(prefix, temperature) for prefix in settings.prefixes]
        for temperature in [None, *settings.temperatures]
    }
    write_samples(Path(f"samples/{given.variant}.txt"), samples)


if __name__ == "__main__":
    run_stage("sample", main)
