"""Code shared by the benchmarks: training tokens, settings and a description of the machine."""

from __future__ import annotations

import argparse
import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gru_lm.core.params import load_params
from gru_lm.data.prepared import Prepared, numbers
from gru_lm.data.text import read_text, tokenize
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.settings import ModelSettings
from gru_lm.training.minibatches import require_enough_tokens
from gru_lm.training.settings import Train, TrainingSettings

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results"
PARAMS: Final = ROOT / "params.yaml"
NUM_TOKENS: Final = 10_000  # as in the textbook's chapter


@dataclass(frozen=True)
class Corpus:
    """The training tokens (N,) int64 on the CPU, read from the file ``source``."""

    tokens: Tensor
    vocabulary: Vocabulary
    source: str

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)


@dataclass(frozen=True)
class Experiment:
    """The data and settings of every implementation, and the ``head`` of the result file."""

    corpus: Corpus
    settings: Train
    hidden_size: int
    head: dict[str, Any]


def set_up(benchmark: str, device: torch.device) -> Experiment:
    """Return the experiment of params.yaml with the fixed settings of the textbook's loop.

    Raises UserError if params.yaml is invalid or the corpus is too short for a minibatch.
    """
    settings = textbook_settings(load_params(TrainingSettings, PARAMS).train)
    hidden_size = load_params(ModelSettings, PARAMS).model.hidden_size
    corpus = load_corpus()
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
            "hidden_size": hidden_size,
            "lr": settings.lr,
            "clip_norm": settings.clip_norm,
            "seed": settings.seed,
        },
    }
    return Experiment(corpus, settings, hidden_size, head)


def load_corpus() -> Corpus:
    """Return the first 10,000 tokens of the prepared training split, or of the bundled sample.

    Raises UserError if the prepared split exists and is damaged.
    """
    folder = ROOT / "data" / "prepared"
    if (folder / "vocab.json").exists() and (folder / "train.npy").exists():
        prepared = Prepared(folder)
        tokens = numbers(prepared.tokens("train")[:NUM_TOKENS])
        return Corpus(tokens, prepared.vocabulary, "data/prepared/train.npy")
    return sample_corpus()


def sample_corpus() -> Corpus:
    """Return the first 10,000 characters of the bundled sample."""
    source = "corpora/sample.txt"
    characters = tokenize(read_text(ROOT / source), "letters", "char")
    vocabulary = Vocabulary.build(characters, "char", "letters")
    tokens = numbers(vocabulary.encode_tokens(characters)[:NUM_TOKENS])
    return Corpus(tokens, vocabulary, source)


def textbook_settings(settings: Train) -> Train:
    """Return ``settings`` with the minibatches, optimizer and type of the textbook's loop."""
    fixed = {"partition": "sequential", "drop_last": True, "optimizer": "sgd", "clip_norm": 1.0}
    return settings.model_copy(update={**fixed, "precision": "fp32"})


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def positive(text: str) -> int:
    """Parse a count of at least 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--threads``, ``--device`` and ``--peers`` of all timings."""
    parser.add_argument("--threads", type=positive, metavar="N", help="default: one per core")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add_peers_option(parser)


def add_peers_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--peers``, the folder to import d2l and flashrnn from."""
    parser.add_argument("--peers", type=Path, metavar="DIR", help="a folder that contains d2l")


def machine_name(device: torch.device) -> str:
    """Return the processor's name, for example ``NVIDIA H100 80GB HBM3`` or ``AMD EPYC``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name()


def file_name(benchmark: str, device: torch.device) -> str:
    """Return a file name with the device, such as ``speed-amd-epyc-2-threads.json``."""
    name = machine_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name += f" {threads} thread{'s' if threads > 1 else ''}"
    return f"{benchmark}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return machine, versions and time for the head of a result file."""
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
