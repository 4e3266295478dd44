"""The loss on the training split by how often its targets were trained.

The perplexity on the training split is higher than that of the last minibatches. One reason is the
different initial states, another that it includes targets that were in no minibatch.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Final

import numpy as np

GROUPS: Final = ("never", "<25%", "25-50%", "50-75%", "75-100%")  # of gru_lm.results.coverage
WIDE: Final = {"overall": 0, "trained": 1, "often_trained": 2}  # by the first of their GROUPS


class CoverageSums:
    """The summed loss of the targets of the training split, by how often they were trained.

    ``times`` (M,) is the number of the ``epochs`` in which each target was trained.
    """

    def __init__(self, times: np.ndarray, epochs: int) -> None:
        self._times, self._epochs = times, epochs
        self._added = 0
        self._counts = dict.fromkeys((*WIDE, *GROUPS), 0)
        self._nats = dict.fromkeys((*WIDE, *GROUPS), 0.0)

    def add(self, surprise: np.ndarray) -> None:
        """Add the cross-entropy of the next targets in nats, (T,)."""
        times = self._times[self._added :][: len(surprise)]
        self._added += len(surprise)
        quarters = np.minimum(4 * times.astype(np.int64) // self._epochs, 3)
        groups = np.where(times == 0, 0, quarters + 1)  # indices into GROUPS
        masks = {name: groups >= least for name, least in WIDE.items()}
        masks |= {name: groups == index for index, name in enumerate(GROUPS)}
        for name, of in masks.items():
            self._counts[name] += int(of.sum())
            self._nats[name] += float(surprise[of].sum())

    def result(self) -> dict[str, Any]:
        """Return the fields of ``gru_lm.results.coverage.Coverage``."""
        by_group = {name: self._group(name) for name in GROUPS}
        return {
            "epochs": self._epochs,
            **{name: self._group(name) for name in WIDE},
            "by_times_trained": {name: found for name, found in by_group.items() if found},
        }

    def _group(self, name: str) -> dict[str, float | int | None] | None:
        """Return the entry of a group, None if it has no target."""
        count, nats, total = self._counts[name], self._nats[name], self._nats["overall"]
        if count == 0:
            return None
        mean = nats / count
        return {
            "tokens": count,
            "share": count / self._counts["overall"],
            "loss_share": nats / total if total > 0 else 0.0,
            "perplexity": math.exp(mean) if mean < math.log(sys.float_info.max) else None,
            "bits_per_token": mean / math.log(2),
        }
