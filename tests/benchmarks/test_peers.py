"""Other implementations, as far as they can be tested without their packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks.common import ROOT
from benchmarks.peers import chapter
from benchmarks.peers.packages import PeerMissingError, load_d2l
from benchmarks.peers.serving import Job
from benchmarks.peers.worker import Worker
from gru_lm.models.base import build_model

JOB = Job(
    vocab_size=5,
    hidden_size=3,
    batch_size=2,
    num_steps=4,
    lr=1.0,
    clip_norm=1.0,
    seed=0,
    threads=1,
    device="cpu",
)
# Its cross-entropy is the number of epochs. With seed 9 it cannot run, and with seed 8 it dies.
PEER = """
import os, sys
from benchmarks.peers.serving import Peer, serve

def build(job):
    if job.seed == 9:
        raise RuntimeError("no such GPU")
    epochs = 0

    def train_epoch(minibatches):
        nonlocal epochs
        if job.seed == 8:
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(1)
        print("what a framework prints")
        epochs += 1
        return float(epochs)

    return Peer({"numpy": "2"}, train_epoch)

serve(build)
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_peer.py").write_text(PEER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return "a_peer"


def test_worker_trains_and_keeps_model(peer):
    worker = Worker(Path(sys.executable), peer, JOB)
    try:
        assert worker.versions == {"numpy": "2"}
        minibatch = (torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.int64))
        first = worker.train([[minibatch, minibatch]])
        second = worker.train([[minibatch], [minibatch]])
    finally:
        worker.close()
    assert (first["tokens"], second["tokens"]) == (16, 16)
    assert first["perplexity"] == pytest.approx(2.71828, rel=1e-5)
    assert second["perplexity"] == pytest.approx(2.71828**3, rel=1e-5)
    assert first["seconds"] > 0


def test_untrainable_worker_gives_reason(peer):
    with pytest.raises(PeerMissingError, match=r"^RuntimeError: no such GPU$"):
        Worker(Path(sys.executable), peer, Job(**{**JOB.__dict__, "seed": 9}))


def test_dead_worker_reports_last_line(peer):
    worker = Worker(Path(sys.executable), peer, Job(**{**JOB.__dict__, "seed": 8}))
    try:
        with pytest.raises(PeerMissingError, match=r"^its process ended: out of luck$"):
            worker.train([[(torch.zeros(1, 1), torch.zeros(1, 1))]])
    finally:
        worker.close()


def test_chapter_equals_scratch_bit_for_bit():
    V, H, B, T = 5, 16, 3, 7
    model = build_model("scratch", V, hidden_size=H, reset="before")
    weights = model.state_dict()
    tokens = torch.randint(V, (B, T))
    one_hot = F.one_hot(tokens.T, V).float()
    state = chapter.init_gru_state(B, H, torch.device("cpu"))
    logits, (last,) = chapter.gru(one_hot, state, [weights[name] for name in chapter.PARAMETERS])
    wanted, final = model(tokens, model.begin_state(B))
    assert torch.equal(logits, wanted.flatten(0, 1))
    assert torch.equal(last, final)


def test_folder_without_d2l_is_refused(tmp_path):
    with pytest.raises(PeerMissingError, match="does not contain d2l"):
        load_d2l(tmp_path)
    assert not list(tmp_path.iterdir())
