"""What the benchmarks share: the tokens they train on, and the machine in words."""

from __future__ import annotations

import argparse
import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import ROOT
from gru_lm.settings import Train
from gru_lm.text import read_text, tokenize
from gru_lm.tokens import load_split
from gru_lm.vocabulary import Vocabulary

NUM_TOKENS: Final = 10_000  # as many as the chapter trains on
RESULTS: Final = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Corpus:
    """The training tokens (N,) int64, on the CPU; ``source`` is the file they come from."""

    tokens: Tensor
    vocab_size: int
    source: str


def load_corpus() -> Corpus:
    """The first 10,000 tokens of the prepared training split, or of the bundled sample."""
    prepared = ROOT / "data" / "prepared"
    array: np.ndarray
    if (prepared / "vocab.json").exists() and (prepared / "train.npy").exists():
        vocabulary = Vocabulary.load(prepared / "vocab.json")
        array, source = load_split(prepared, "train", len(vocabulary)), "data/prepared/train.npy"
    else:
        source = "corpora/sample.txt"
        characters = tokenize(read_text(ROOT / source), "letters", "char")
        vocabulary = Vocabulary.build(characters, "char", "letters")
        array = vocabulary.encode_tokens(characters)
    tokens = torch.from_numpy(array[:NUM_TOKENS].astype("int64"))
    return Corpus(tokens, len(vocabulary), source)


def textbook_settings(settings: Train) -> Train:
    """``settings`` with what the textbook's loop leaves no choice in set to what it does."""
    return settings.model_copy(
        update={"partition": "sequential", "optimizer": "sgd", "clip_norm": 1.0}
    )


def positive(text: str) -> int:
    """A count of at least 1, from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def machine_name(device: torch.device) -> str:
    """The processor that computes, for example ``NVIDIA H100 80GB HBM3`` or ``AMD EPYC``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name()


def file_name(benchmark: str, device: torch.device) -> str:
    """The result's file name, made from the device: ``textbook-amd-epyc-2-threads.json``."""
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
