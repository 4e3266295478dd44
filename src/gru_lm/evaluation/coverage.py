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


def coverage(surprise: np.ndarray, times: np.ndarray, epochs: int) -> dict[str, Any]:
    """Return the fields of ``gru_lm.results.coverage.Coverage``.

    ``surprise`` (M,) is the cross-entropy of each target of the training split in nats, ``times``
    (M,) the number of the ``epochs`` in which it was trained.
    """
    quarters = np.minimum(4 * times.astype(np.int64) // epochs, 3)
    groups = np.where(times == 0, 0, quarters + 1)  # indices into GROUPS

    def group(of: np.ndarray) -> dict[str, float | int | None] | None:
        """Return the entry of the targets selected by the mask ``of`` (M,)."""
        count, nats, total = int(of.sum()), float(surprise[of].sum()), float(surprise.sum())
        if count == 0:
            return None
        mean = nats / count
        return {
            "tokens": count,
            "share": count / len(of),
            "loss_share": nats / total if total > 0 else 0.0,
            "perplexity": math.exp(mean) if mean < math.log(sys.float_info.max) else None,
            "bits_per_token": mean / math.log(2),
        }

    by_group = {name: group(groups == index) for index, name in enumerate(GROUPS)}
    return {
        "epochs": epochs,
        "overall": group(groups >= 0),
        "trained": group(groups > 0),
        "often_trained": group(groups > 1),
        "by_times_trained": {name: found for name, found in by_group.items() if found},
    }
