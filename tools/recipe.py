"""Run the settings of a recipe as a DVC experiment.

    python -m tools.recipe shakespeare-quick
    python -m tools.recipe own-text -S fetch.corpus=my_book

A recipe is a file recipes/NAME.yaml with the params that differ from params.yaml. The tool prints
the ``dvc exp run`` command for them and runs it. The experiment has the name of the recipe. It runs
in a temporary copy of the project (``--temp``), so params.yaml and the results in the workspace
stay as they are. The copy has only the files that git knows.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gru_lm.core.errors import Interrupted, UserError, one_line, run_main, say
from gru_lm.core.params import PARAMS, did_you_mean, read_yaml
from tools.revisions import experiments

RECIPES: Final = Path("recipes")

# Text that the grammar of -S reads as text without quotes.
PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
WORDS: Final = ("null", "true", "false", "nan", "inf")


def recipes() -> list[str]:
    """Return the names of all recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def settings(name: str) -> dict[str, Any]:
    """Return the params of a recipe by dotted key.

    Raises UserError if there is no such recipe, it is not a mapping, or it sets a key that
    params.yaml does not have.
    """
    if name not in (known := recipes()):
        raise UserError(
            f"unknown recipe {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
        )
    path = RECIPES / f"{name}.yaml"
    tree, params = read_yaml(path), read_yaml(PARAMS)
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{path} must be a mapping of params, such as 'train:'")
    found = dict(_leaves(tree, ""))
    for key in found:
        if not _has(params, key):
            raise UserError(f"{path}: {PARAMS} has no key {key!r}")
    return found


def _leaves(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _has(params: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(params, dict) or part not in params:
            return False
        params = params[part]
    return True


def option(key: str, value: Any) -> str:
    """Return ``key=value`` in the grammar of DVC's option -S (Hydra's)."""
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


def command(experiment: str, params: Mapping[str, Any], changes: list[str]) -> list[str]:
    """Return the DVC command that runs ``params``, with ``changes`` (KEY=VALUE) in place of them.

    Raises UserError if a change is malformed.
    """
    options = {key: option(key, value) for key, value in params.items()}
    for change in changes:
        key, equals, _ = change.partition("=")
        if not (key and equals):
            raise UserError(f"-S {change}: write it as key=value")
        options[key] = change
    pairs = [part for one in options.values() for part in ("-S", one)]
    return ["dvc", "exp", "run", "--temp", "--name", experiment, *pairs]


def variants(params: Mapping[str, Any]) -> list[str]:
    """Return the variants that an experiment with ``params`` trains."""
    chosen = params.get("variants", read_yaml(PARAMS).get("variants", []))
    return [str(one) for one in chosen] if isinstance(chosen, list) else []


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a recipe as a DVC experiment.")
    parser.add_argument("recipe", nargs="?", help="a file in recipes/, without .yaml")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change or add a param, as in dvc exp run",
    )
    parser.add_argument("--name", help="name of the experiment (default: the recipe's)")
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")
    given = parser.parse_args()
    if not given.recipe:
        raise UserError(f"name a recipe: {', '.join(recipes())} (make recipe NAME=...)")
    experiment = given.name or given.recipe
    params = settings(given.recipe)
    run = command(experiment, params, given.set_param)
    print(one_line(shlex.join(run)), flush=True)
    if given.dry_run:
        return
    if experiment in experiments():
        raise UserError(
            f"the experiment {experiment} exists: choose another --name, or remove it with "
            f"dvc exp remove {shlex.quote(experiment)}"
        )
    try:
        status = subprocess.run(run, stdin=subprocess.DEVNULL, check=False).returncode
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the experiment is not kept") from None
    if status:
        raise UserError(f"dvc exp run failed with exit status {status}; its lines above say why")
    say("recipe", f"done. Take the result into the workspace: dvc exp apply {experiment}")
    for variant in variants(params):
        say("recipe", f"then write with it: python -m stages.sample --variant {variant} --prefix …")


if __name__ == "__main__":
    run_main("recipe", main)
