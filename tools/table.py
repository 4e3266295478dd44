"""``dvc exp show`` with the columns that matter: params that differ, held-out perplexity, speed.

    python -m tools.table
    python -m tools.table --all-commits --sort-by train.lr

Further options go to ``dvc exp show``. The headings are shortened, and an experiment that has not
succeeded shows no metrics: DVC would show those of the commit that it started from. The plain
command is printed by ``python -m tools.table --print-command``.
"""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from typing import Final

from gru_lm.core.errors import UserError, run_main

KEPT: Final = (
    r"metrics/(evaluate/(?!unigram).*:(val|test)\.perplexity|timing/.*:tokens_per_second)$"
)

# Of the rest: times, the other metrics, and the hashes of the files that stages read.
DROPPED: Final = rf"(?!{KEPT})((corpora|data|dvclive|metrics|models|src|stages)/|corpora$|Created$)"

COMMAND: Final = (
    *("dvc", "exp", "show", "--no-pager", "--only-changed"),
    *("--keep", f"(Experiment|rev|State)$|{KEPT}", "--drop", DROPPED),
)


def short(heading: str) -> str:
    """``metrics/evaluate/scratch.json:val.perplexity`` as ``scratch val``."""
    match = re.fullmatch(r"metrics/\w+/(.+)\.json:(\w+)(?:\.perplexity)?", heading)
    return f"{match[1]} {match[2].replace('tokens_per_second', 'tokens/s')}" if match else heading


def summary(text: str) -> list[list[str]]:
    """What ``dvc exp show --csv`` prints, as rows of short cells, the headings first."""
    rows = list(csv.DictReader(text.splitlines()))
    headings = [
        name for name in (rows[0] if rows else ()) if name not in ("rev", "typ", "Executor")
    ]
    cells = [[short(heading) for heading in headings]]
    for row in rows:
        row["Experiment"] = row["Experiment"] or row["rev"]
        done = row.get("State", "") in ("", "Success")
        metrics = [heading.startswith("metrics/") for heading in headings]
        cells.append(
            [
                _number(row[heading]) if done or not metric else "-"
                for heading, metric in zip(headings, metrics, strict=True)
            ]
        )
    return cells


def _number(cell: str) -> str:
    """Long numbers cut to five digits."""
    if not re.fullmatch(r"-?\d+\.\d{4,}", cell):
        return cell or "-"
    value = float(cell)
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.5g}"


def main() -> None:
    options = sys.argv[1:]
    if options == ["--print-command"]:
        print(shlex.join(COMMAND))
        return
    if {"-h", "--help"} & set(options):
        print(__doc__)
        return
    if taken := {"--json", "--csv", "--md"} & set(options):
        raise UserError(f"{taken.pop()} is for dvc exp show itself: see --print-command")
    command = [*COMMAND, "--csv", *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise UserError("dvc exp show failed: see above")
    rows = summary(result.stdout)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())


if __name__ == "__main__":
    run_main("table", main)
