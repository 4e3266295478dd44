"""One rank of a small training: ``rank_worker.py CASES FOLDER``.

``CASES`` is a JSON object of settings by name. For each, it writes to ``FOLDER`` the rows and the
last state as safetensors, and the state in the middle. A state with the name of the case and
``.start`` is restored before the first step. Only the first rank writes. ``train`` of this module
does the same in one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trainings import train_settings

from gru_lm.models.base import build_model
from gru_lm.training.loop import Training
from gru_lm.training.ranks import ALONE, Ranks, joined
from gru_lm.training.state import restore, to_tensors

V, H = 5, 4
TOKENS = torch.randint(V, (180,), generator=torch.Generator().manual_seed(0))
HELD_OUT = torch.randint(V, (31,), generator=torch.Generator().manual_seed(1))
SMALL: dict[str, Any] = {"batch_size": 4, "num_steps": 5, "epochs": 3, "validate_every": 1}

Result = tuple[list[list[Any]], dict[str, Tensor], dict[str, Tensor]]


def train(case: dict[str, Any], ranks: Ranks = ALONE, start: Path | None = None) -> Result:
    """Train a case. Returns the rows, the state in the middle and that at the end."""
    torch.manual_seed(3)
    case = dict(case)
    model = build_model(case.pop("variant", "scratch"), V, hidden_size=H, **case.pop("model", {}))
    settings = train_settings(**(SMALL | case))
    training = Training(model, TOKENS, settings, HELD_OUT, ranks=ranks)
    if start is not None:
        restore(training, load_file(start))
    rows, middle = [], {}
    while not training.is_over:
        row = training.advance()
        if row is not None:
            rows.append([row.number, row.perplexity, row.tokens, row.val_perplexity])
        if training.position.steps == 12:  # in the second epoch
            middle = to_tensors(training)
    return rows, middle, to_tensors(training)


if __name__ == "__main__":
    cases, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        for name, case in cases.items():
            start = folder / f"{name}.start"
            rows, middle, end = train(case, ranks, start if start.exists() else None)
            (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(rows))
            if ranks.first:
                save_file(middle, folder / f"{name}.middle")
                save_file(end, folder / f"{name}.end")
