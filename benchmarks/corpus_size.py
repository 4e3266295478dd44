"""Measure the time and the peak memory of each stage for texts of several sizes.

    python -m benchmarks.corpus_size --mib 1 10 100 1024

For each size a varied text is generated from a seed and goes through fetch, prepare, train,
evaluate, sample, baseline and gates, each in a process of its own, as ``dvc repro`` runs them.
The model is small and trains for a stated number of steps. ``evaluate`` and ``gates`` read a stated
number of tokens of each split, and a validation too. Sizes already in the result file are kept
unless they are measured again. The table for docs/scaling.md is printed.

The text has words of letters drawn like those of corpora/sample.txt (a chain over three letters),
with frequencies by Zipf's law as Mandelbrot modified it, punctuation and lines. No part of it is
repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from benchmarks.common import PARAMS, RESULTS, ROOT, describe_machine, file_name, positive
from gru_lm.core.errors import UserError, run_main
from gru_lm.core.files import read_json, write_json
from gru_lm.core.params import read_yaml

MIB: Final = 1 << 20
VARIANT: Final = "fused"
STAGES: Final = ("fetch", "prepare", "train", "evaluate", "sample", "baseline", "gates")
BY_VARIANT: Final = ("train", "evaluate", "sample", "gates")
TEXT: Final = "corpus.txt"

WORDS: Final = 50_000  # distinct words of the generated text
DRAWN: Final = 1 << 20  # words drawn at a time
EXPONENT, SHIFT = 1.05, 2.7  # of Zipf and Mandelbrot's law: the word of rank r has 1 / (r + s)^a
AFTER: Final = (b" ", b", ", b"; ", b".\n", b". ", b"? ")  # a word, and how often
OFTEN: Final = (0.80, 0.09, 0.01, 0.03, 0.06, 0.01)
STARTS_SENTENCE: Final = 3  # the first of AFTER that is followed by a capital letter

Figures = dict[str, Any]


def made_words(seed: int, count: int = WORDS) -> list[str]:
    """Return ``count`` distinct words, the frequent ones first, drawn from a chain of letters."""
    choose = random.Random(seed).choice
    sample = (ROOT / "corpora/sample.txt").read_text(encoding="utf-8").lower()
    following = defaultdict(list)
    for word in re.findall("[a-z]+", sample):
        for a, b, c in zip(f"  {word}", f" {word}", f"{word} ", strict=False):
            following[a + b].append(c)
    words: dict[str, None] = {}
    while len(words) < count:
        word = "  "
        while len(word) < 16 and (letter := choose(following[word[-2:]])) != " ":
            word += letter
        words[word.strip()] = None
    return list(words)


def text_pieces(seed: int) -> Iterator[bytes]:
    """Yield an endless text in pieces of ``DRAWN`` words, the same for the same ``seed``."""
    rng = np.random.default_rng(seed)
    words = made_words(seed)
    forms = [form.encode() for form in (*words, *(word.capitalize() for word in words))]
    table = np.array([form + after for form in forms for after in AFTER], dtype=object)
    weights = 1 / (np.arange(WORDS) + 1 + SHIFT) ** EXPONENT
    shares, after_shares = (np.cumsum(w) / np.sum(w) for w in (weights, np.array(OFTEN)))
    while True:
        rank = np.searchsorted(shares, rng.random(DRAWN))
        after = np.searchsorted(after_shares, rng.random(DRAWN))
        starts = np.concatenate([[True], after[:-1] >= STARTS_SENTENCE])
        yield b"".join(table[(rank + WORDS * starts) * len(AFTER) + after].tolist())


def write_text(path: Path, size: int, seed: int = 0) -> None:
    """Write a generated text of ``size`` bytes to ``path``."""
    with path.open("wb") as file:
        for piece in text_pieces(seed):
            file.write(piece[: size - file.tell()])
            if file.tell() >= size:
                return


def params(steps: int, max_tokens: int) -> dict[str, Any]:
    """Return params.yaml with a small model and the generated text."""
    tree: dict[str, Any] = read_yaml(PARAMS)
    tree["variants"] = [VARIANT]
    tree["device"] = "cpu"
    tree["fetch"] |= {"corpus": "generated", "max_bytes": 10**11}
    tree["corpora"] = {"generated": {"path": TEXT}}
    tree["prepare"] |= {"normalize": "none", "split": {"train": 0.9, "val": 0.05, "test": 0.05}}
    tree["model"] |= {"hidden_size": 64}
    tree["train"] |= {
        "epochs": None,
        "steps": steps,
        "validate_every": f"{steps} steps",
        "validate_tokens": max_tokens,
    }
    tree["evaluate"] |= {"max_tokens": max_tokens}
    tree["replicate"] |= {"seeds": [tree["train"]["seed"]]}  # no further training
    tree["sample"] |= {"prefixes": ["the "]}
    return tree


def measure(mib: int, steps: int, max_tokens: int, stages: list[str], scratch: Path) -> Figures:
    """Run ``stages`` in turn on a text of ``mib`` MiB in a temporary folder of ``scratch``."""
    found: Figures = {}
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        write_text(folder / TEXT, mib * MIB)
        (folder / "params.yaml").write_text(yaml.safe_dump(params(steps, max_tokens)), "utf-8")
        for stage in stages:
            command = [sys.executable, "-m", "benchmarks.peak", sys.executable, "-m"]
            command += [f"stages.{stage}"]
            command += ["--variant", VARIANT] if stage in BY_VARIANT else []
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[stage] = json.loads(done.stdout)
            if status := found[stage].pop("status"):
                raise UserError(f"the stage {stage} failed with exit status {status}")
            print(f"{mib} MiB, {stage}: {cell(found[stage])}", flush=True)
    return found


def cell(figures: Figures) -> str:
    """Return the entry of a stage in the table."""
    text = f"{figures['seconds']:.1f} s, {figures['peak'] / MIB:,.0f} MiB"
    if figures["anonymous"] is not None:
        text += f" ({figures['anonymous'] / MIB:,.0f})"
    return text


def table(sizes: dict[str, Figures]) -> str:
    """Return seconds and peak memory by stage and size as a Markdown table."""
    by_size = sorted(sizes.items(), key=lambda item: int(item[0]))
    rows = [
        "| stage | " + " | ".join(f"{mib} MiB" for mib, _ in by_size) + " |",
        "|---|" + "---|" * len(by_size),
    ]
    for stage in STAGES:
        cells = [cell(of[stage]) if stage in of else "not measured" for _, of in by_size]
        rows.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpus_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mib", type=positive, nargs="+", default=[1, 10, 100, 1024])
    parser.add_argument("--steps", type=positive, default=300, help="of the training (300)")
    parser.add_argument("--max-tokens", type=positive, default=100_000, help="(100000)")
    parser.add_argument(
        "--until", choices=STAGES, default=STAGES[-1], help="the last stage to run (all)"
    )
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with 4 times the size")
    device = torch.device("cpu")
    torch.set_num_threads(1)  # as the stages have
    parser.add_argument("--output", type=Path, default=RESULTS / file_name("corpus-size", device))
    given = parser.parse_args()
    stages = [*itertools.takewhile(lambda stage: stage != given.until, STAGES), given.until]
    scratch = given.scratch or Path(tempfile.gettempdir())
    largest = max(given.mib)
    if shutil.disk_usage(scratch).free < 4 * largest * MIB:
        raise UserError(f"{scratch} has less than {4 * largest:,} MiB: choose another --scratch")
    sizes = read_json(given.output)["sizes"] if given.output.exists() else {}
    for mib in given.mib:
        sizes[str(mib)] = measure(mib, given.steps, given.max_tokens, stages, scratch)
        head = {"benchmark": "corpus_size", **describe_machine(device), "variant": VARIANT}
        head |= {"steps": given.steps, "max_tokens": given.max_tokens}
        write_json(given.output, {**head, "sizes": sizes})
    print(table(sizes))


if __name__ == "__main__":
    run_main("benchmarks.corpus_size", main)
