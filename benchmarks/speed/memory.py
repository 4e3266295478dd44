"""Measure the peak memory of one implementation's training, in a separate process.

    python -m benchmarks.speed.memory fused

The result is printed in bytes. On a CPU it is the peak of the resident set minus its size before
the model is built, after all imports. This works on Linux only, where the kernel can reset the
peak. On a GPU it is the maximum that torch allocated. ``scaling`` runs this for each
implementation.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import torch

from benchmarks.common import ROOT, add_machine_options, set_up
from benchmarks.peers.packages import PeerMissingError, load_d2l
from benchmarks.speed.float32 import (
    IMPLEMENTATIONS,
    TEXTBOOK_SCRATCH,
    float32_loop,
    random_minibatch,
)
from gru_lm.core.errors import UserError, run_main
from gru_lm.models.device import choose_device

MINIBATCHES: Final = 5
PROCESS: Final = Path("/proc/self")


def peak_memory(name: str, device: torch.device, peers: Path | None) -> int | str:
    """Return the peak memory of training ``name`` in bytes, or a message why it is unknown."""
    command = [sys.executable, "-m", "benchmarks.speed.memory", name, "--device", device.type]
    command += ["--threads", str(torch.get_num_threads())]
    if peers is not None:
        command += ["--peers", str(peers.absolute())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return int(done.stdout.splitlines()[-1])


def process_status(key: str) -> int:
    """Return a value of /proc/self/status in bytes."""
    match = re.search(rf"^{key}:\s*(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE)
    if match is None:
        raise UserError(f"{PROCESS / 'status'} has no line {key}: peak memory cannot be measured")
    return int(match[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=IMPLEMENTATIONS)
    add_machine_options(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    on_gpu = device.type == "cuda"
    if not on_gpu and sys.platform != "linux":
        raise UserError("peak memory is measured on Linux only")
    experiment = set_up("memory", device)
    settings, V = experiment.settings, experiment.corpus.vocab_size
    try:
        d2l = load_d2l(arguments.peers) if arguments.name == TEXTBOOK_SCRATCH else None
    except PeerMissingError as error:
        raise UserError(f"missing: d2l ({error})") from error
    # The first optimizer and backward pass load parts of torch, which should not be measured.
    weight = torch.ones(1, requires_grad=True, device=device)
    weight.sum().backward()
    torch.optim.SGD([weight], settings.lr).step()
    before = 0
    if not on_gpu:
        (PROCESS / "clear_refs").write_text("5")  # resets the peak to the current size
        before = process_status("VmRSS")
    train = float32_loop(arguments.name, d2l, V, experiment.hidden_size, settings, device)
    minibatch = random_minibatch(V, settings.batch_size, settings.num_steps, device)
    train([minibatch] * MINIBATCHES)
    print(torch.cuda.max_memory_allocated() if on_gpu else process_status("VmHWM") - before)


if __name__ == "__main__":
    run_main("benchmarks.speed.memory", main)
