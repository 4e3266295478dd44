"""Generate text with one trained variant.

Without a prefix, the variant continues each prefix of params.yaml, greedily and at each
temperature, and the texts are written to samples/<variant>.txt. With --prefix or --prefix-file, it
continues that text, and the result is printed.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from gru_lm.core.errors import UserError, printable, say
from gru_lm.core.params import load_params
from gru_lm.core.reading import DOCUMENT, decode_text, read_bytes
from gru_lm.data.prepared import Prepared
from gru_lm.generation.sampling import generate, unread_parts
from gru_lm.generation.settings import GenerationSettings
from gru_lm.models.base import load_model
from gru_lm.models.device import describe_device
from gru_lm.models.token_counts import read_untrained
from gru_lm.results.samples import heading, write_samples
from stages import add_variant, run_stage


def main() -> None:
    given = arguments()
    settings = load_params(GenerationSettings).sample
    vocabulary = Prepared().vocabulary
    folder = Path("models") / given.variant
    model = load_model(folder, vocabulary.fingerprint, given.variant).eval()
    write_on = partial(
        generate,
        model,
        vocabulary,
        length=settings.length if given.length is None else given.length,
        top_k=settings.top_k if given.top_k is None else given.top_k,
        top_p=settings.top_p if given.top_p is None else given.top_p,
        excluded=read_untrained(folder, len(vocabulary), vocabulary.fingerprint),
        stop=given.stop,
    )
    prefix = prefix_of(given)
    prefixes = settings.prefixes if prefix is None else [prefix]
    if warning := unread_parts(prefixes, vocabulary):
        say("sample", f"warning: {warning}", file=sys.stderr)
    seed = settings.seed if given.seed is None else given.seed
    if prefix is not None:
        print_samples(given, prefix, seed, write_on)
        return
    # The CPU is faster, because a GPU is mostly idle with one token at a time.
    say(f"sample@{given.variant}", f"on {describe_device(model.device)}")
    samples = {
        heading(temperature): [
            write_on(prefix, temperature=temperature, generator=seeded(seed)) for prefix in prefixes
        ]
        for temperature in [None, *settings.temperatures]
    }
    write_samples(Path(f"samples/{given.variant}.txt"), samples)


def arguments() -> argparse.Namespace:
    """Return the command line. Raises UserError for a value out of range or without effect."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_variant(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--prefix", metavar="TEXT", help="continue this text and print the result (-: from stdin)"
    )
    start.add_argument("--prefix-file", metavar="PATH", type=Path, help="continue this file's text")
    parser.add_argument("--length", type=int, help="tokens to generate (default: sample.length)")
    parser.add_argument(
        "--temperature", type=float, help="sample at this temperature (default: greedy)"
    )
    parser.add_argument(
        "--top-k", type=int, help="sample from the k most likely tokens (default: sample.top_k)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        help="sample from the fewest tokens whose probabilities sum to p (default: sample.top_p)",
    )
    parser.add_argument("--seed", type=int, help="random seed (default: sample.seed)")
    parser.add_argument(
        "--samples", metavar="N", type=int, help="print N texts, with the seeds seed, seed + 1, ..."
    )
    parser.add_argument("--stop", metavar="TEXT", help="stop after the model has written this text")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print each token as soon as it is known (always done on a terminal)",
    )
    given = parser.parse_args()
    for option, value, least, most in (
        ("length", given.length, 1, 1_000_000),
        ("top-k", given.top_k, 1, 10_000_000),
        ("seed", given.seed, 0, 2**32 - 1),
        ("samples", given.samples, 1, 10_000),
    ):
        if value is not None and not least <= value <= most:
            raise UserError(f"--{option} = {value}: must be {least} to {most}")
    for option, number, highest in (
        ("temperature", given.temperature, 100),
        ("top-p", given.top_p, 1),
    ):
        if number is not None and not 0 < number <= highest:
            raise UserError(f"--{option} = {number:g}: must be over 0, at most {highest}")
    if given.prefix is None and given.prefix_file is None:
        for option in ("temperature", "samples", "stop", "stream"):
            if getattr(given, option) not in (None, False):
                raise UserError(
                    f"--{option} needs --prefix or --prefix-file: without them, the settings are "
                    "those of the section sample of params.yaml"
                )
    elif given.temperature is None:
        for option in ("top_k", "top_p", "samples"):
            if (getattr(given, option) or 1) != 1:
                raise UserError(
                    f"--{option.replace('_', '-')} needs --temperature: without it, the text is "
                    "always that of the most likely tokens"
                )
    return given


def prefix_of(given: argparse.Namespace) -> str | None:
    """Return the text to continue, or None if the command line has none."""
    if given.prefix_file is not None:
        return decode_text(read_bytes(given.prefix_file), str(given.prefix_file))
    if given.prefix == "-":
        data = sys.stdin.buffer.read(DOCUMENT + 1)
        if len(data) > DOCUMENT:
            raise UserError(f"the prefix has more than {DOCUMENT:,} bytes: give a shorter one")
        return decode_text(data, "standard input")
    prefix: str | None = given.prefix
    return prefix


def print_samples(
    given: argparse.Namespace, prefix: str, seed: int, write_on: Callable[..., str]
) -> None:
    """Print the texts that ``write_on`` generates after ``prefix``, with a heading if several."""
    terminal, samples = sys.stdout.isatty(), given.samples or 1

    def show(text: str) -> None:
        print(printable(text, keep="\n\t") if terminal else text, end="", flush=True)

    for number in range(samples):
        if samples > 1:
            show(f"=== sample {number + 1} of {samples}, seed {seed + number} ===\n")
        options = {"temperature": given.temperature, "generator": seeded(seed + number)}
        if terminal or given.stream:
            try:
                write_on(prefix, observe=show, **options)
            except (KeyboardInterrupt, UserError):
                show("\n")  # ends the line before the message
                raise
        else:
            show(write_on(prefix, **options))
        show("\n\n" if number + 1 < samples else "\n")


def seeded(seed: int) -> torch.Generator:
    """Return a generator on the CPU with ``seed``."""
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    run_stage("sample", main)
