"""What the benchmarks share: the tokens they train on, and the machine in words."""

from __future__ import annotations

import argparse
import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import ROOT, PeerMissingError, load_d2l
from gru_lm.core.errors import UserError
from gru_lm.core.files import write_json
from gru_lm.core.params import Train, load_settings
from gru_lm.data.text import read_text, tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.preparation.splits import load_split
from gru_lm.training.minibatches import require_enough_tokens

NUM_TOKENS: Final = 10_000  # as many as the chapter trains on
RESULTS: Final = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Corpus:
    """The training tokens (N,) int64, on the CPU; ``source`` is the file they come from."""

    tokens: Tensor
    vocabulary: Vocabulary
    source: str

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)


@dataclass(frozen=True)
class Experiment:
    """What both sides of a comparison train on and with, and the ``head`` of its result."""

    corpus: Corpus
    settings: Train
    hidden_size: int
    head: dict[str, Any]


def set_up(benchmark: str, device: torch.device) -> Experiment:
    """The experiment of params.yaml, as far as the textbook's loop leaves a choice.

    Raises UserError where the corpus is too short for a minibatch.
    """
    parameters = load_settings(ROOT / "params.yaml")
    settings, corpus = textbook_settings(parameters.train), load_corpus()
    require_enough_tokens(len(corpus.tokens), settings.batch_size, settings.num_steps)
    head = {
        "benchmark": benchmark,
        **describe_machine(device),
        "sizes": {
            "corpus": corpus.source,
            "tokens": len(corpus.tokens),
            "vocabulary": corpus.vocab_size,
            "batch_size": settings.batch_size,
            "num_steps": settings.num_steps,
            "hidden_size": parameters.model.hidden_size,
            "lr": settings.lr,
            "clip_norm": settings.clip_norm,
            "seed": settings.seed,
        },
    }
    return Experiment(corpus, settings, parameters.model.hidden_size, head)


def require_d2l(folder: Path | None, head: dict[str, Any], output: Path) -> ModuleType:
    """The package d2l (see ``load_d2l``).

    Raises UserError where it cannot be had, after noting in ``output`` that it is missing.
    """
    try:
        return load_d2l(folder)
    except PeerMissingError as error:
        write_json(output, {**head, "missing": {"d2l": str(error)}})
        raise UserError(f"missing: d2l ({error}); noted in {output}") from error


def load_corpus() -> Corpus:
    """The first 10,000 tokens of the prepared training split, or of the bundled sample."""
    prepared = ROOT / "data" / "prepared"
    array: np.ndarray
    if (prepared / "vocab.json").exists() and (prepared / "train.npy").exists():
        vocabulary = Vocabulary.load(prepared / "vocab.json")
        array, source = load_split(prepared, "train", vocabulary), "data/prepared/train.npy"
    else:
        source = "corpora/sample.txt"
        characters = tokenize(read_text(ROOT / source), "letters", "char")
        vocabulary = Vocabulary.build(characters, "char", "letters")
        array = vocabulary.encode_tokens(characters)
    tokens = torch.from_numpy(array[:NUM_TOKENS].astype("int64"))
    return Corpus(tokens, vocabulary, source)


def textbook_settings(settings: Train) -> Train:
    """``settings`` with what the textbook's loop leaves no choice in set to what it does."""
    fixed = {"partition": "sequential", "optimizer": "sgd", "clip_norm": 1.0, "precision": "fp32"}
    return settings.model_copy(update=fixed)


def positive(text: str) -> int:
    """A count of at least 1, from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """``--threads``, ``--device`` and ``--peers``, which mean the same in every timing."""
    parser.add_argument("--threads", type=positive, metavar="N", help="default: one for each core")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="a folder that holds d2l")


def machine_name(device: torch.device) -> str:
    """The processor that computes, for example ``NVIDIA H100 80GB HBM3`` or ``AMD EPYC``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name()


def file_name(benchmark: str, device: torch.device) -> str:
    """The result's file name, made from the device: ``speed-amd-epyc-2-threads.json``."""
    name = machine_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name += f" {threads} thread{'s' if threads > 1 else ''}"
    return f"{benchmark}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the time, for the head of a result."""
    return {
        "machine": machine_name(device),
        "device": device.type,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(\S.*)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()
