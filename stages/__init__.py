"""The stages of the pipelines, one script each.

Run them from the project root, for example with ``python -m stages.fetch``. A stage imports the
library from the ``src`` beside it and not from an installed copy. ``dvc exp run --temp`` and
``--queue`` run a copy of the tree, and the copy must use its own ``src``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

if TYPE_CHECKING:
    import argparse

PIPELINES = ("dvc.yaml", "analysis/dvc.yaml")


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's ``main``. A UserError becomes one line and a non-zero exit status.

    The stage fails too if the params that it has loaded were changed while it ran.
    """
    # Imported here, so that importing ``stages`` loads nothing.
    from gru_lm.core.errors import run_main
    from gru_lm.core.params import require_unchanged

    def run() -> None:
        main()
        require_unchanged()

    run_main(name, run, made_by)


def add_variant(parser: argparse.ArgumentParser) -> None:
    """Add the required option ``--variant`` to ``parser``."""
    from gru_lm.core.variants import known_variants

    parser.add_argument("--variant", choices=known_variants(), required=True)


def made_by(path: Path) -> str | None:
    """Return the command of the stage that creates ``path``, or None if there is no such stage."""
    from gru_lm.core.errors import UserError
    from gru_lm.core.params import read_yaml

    for pipeline in PIPELINES:
        prefix = "" if pipeline == "dvc.yaml" else f"{pipeline}:"
        try:
            tree = read_yaml(Path(pipeline))
        except UserError:  # a stage can be run by hand without dvc.yaml
            continue
        for stage, entry in _mapping(_mapping(tree).get("stages")).items():
            for out in _outputs(entry):
                # ``${item.variant}`` in an output matches any text without a slash.
                parts = re.split(r"\$\{item\.\w+\}", out)
                pattern = "([^/]+?)".join(map(re.escape, parts))
                if found := re.fullmatch(rf"{pattern}(?:/.*)?", path.as_posix()):
                    at = f"@{'-'.join(found.groups())}" if found.groups() else ""
                    return f"dvc repro {prefix}{stage}{at}"
    return None


def _outputs(stage: object) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        outs = _mapping(stage).get(kind)
        for out in outs if isinstance(outs, list) else []:
            path = out if isinstance(out, str) else next(iter(_mapping(out)), None)
            if isinstance(path, str):
                yield path


def _mapping(value: object) -> dict[Any, Any]:
    """Return ``value``, or an empty mapping if a damaged pipeline has something else there."""
    return value if isinstance(value, dict) else {}
