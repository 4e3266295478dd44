"""The results of the pipeline as one git revision, DVC experiment or the workspace holds them.

Read by git alone: params, metrics, curves, samples and dvc.lock are all kept in git. Paths are
relative to the folder that the tool runs in, which is the project's root.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from gru_lm.core.errors import UserError
from gru_lm.core.params import parse_yaml
from gru_lm.results.samples import parse_samples

WORKSPACE: Final = "workspace"

# refs/exps/<the commit that the experiment started from, cut in two>/<name>
_EXPERIMENT: Final = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/([^/]+)")


@dataclass(frozen=True)
class Revision:
    """One state of the project; ``commit`` is None for the workspace."""

    name: str
    commit: str | None

    def read(self, path: str) -> bytes | None:
        """The file's bytes, or None where the revision has no such file."""
        if self.commit is None:
            file = Path(path)
            return file.read_bytes() if file.is_file() else None
        return _git("cat-file", "blob", f"{self.commit}:./{path}")

    @cached_property
    def files(self) -> list[str]:
        """The paths of all results, sorted."""
        folders = ("metrics", "dvclive", "samples")
        if self.commit is None:
            found = [path for folder in folders for path in Path(folder).rglob("*")]
            return sorted(path.as_posix() for path in found if path.is_file())
        listed = _git("ls-tree", "-r", "-z", "--name-only", self.commit, "--", *folders) or b""
        return sorted(name.decode() for name in listed.split(b"\0") if name)

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml by dotted keys."""
        return flatten(self._yaml("params.yaml"))

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock, in its order."""
        stages = self._yaml("dvc.lock").get("stages")
        return stages if isinstance(stages, dict) else {}

    def read_by(self, stage: str) -> dict[str, Any]:
        """The params that dvc.lock records of ``stage``, by dotted keys."""
        files = self.lock.get(stage, {}).get("params", {}).values()
        return {key: value for params in files for key, value in flatten(params).items()}

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The metrics by kind (evaluate, train, timing), name and dotted key."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for path in self._matching("metrics/*/*.json"):
            try:
                value = json.loads(self._text(path))
            except ValueError as error:
                raise self._damaged(path, str(error)) from None
            if not isinstance(value, dict):
                raise self._damaged(path, "it does not hold a JSON object")
            kind, name = PurePosixPath(path).parts[-2:]
            found.setdefault(kind, {})[name.removesuffix(".json")] = flatten(value)
        return found

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """By variant, its (epoch, training perplexity) rows."""
        found = {}
        for path in self._matching("dvclive/*/plots/metrics/train/perplexity.tsv"):
            rows = csv.DictReader(io.StringIO(self._text(path)), delimiter="\t")
            try:
                curve = [(int(row["step"]), float(row["perplexity"])) for row in rows]
            except (KeyError, TypeError, ValueError) as error:
                raise self._damaged(path, str(error)) from None
            found[path.split("/")[1]] = curve
        return found

    @cached_property
    def samples(self) -> dict[str, dict[str, str]]:
        """By variant and heading ("greedy", "temperature 0.5"), the texts, one a line."""
        found: dict[str, dict[str, str]] = {}
        for path in self._matching("samples/*.txt"):
            try:
                sections = parse_samples(self._text(path))
            except ValueError as error:
                raise self._damaged(path, str(error)) from None
            found[PurePosixPath(path).stem] = {
                name: "\n".join(texts) for name, texts in sections.items()
            }
        return found

    @cached_property
    def variants(self) -> list[str]:
        """Whatever has been trained, sorted; baselines such as ``unigram`` are not trained."""
        return sorted(
            {*self.curves, *self.metrics.get("train", {}), *self.metrics.get("timing", {})}
        )

    def metric(self, kind: str, name: str, key: str) -> float | None:
        """One finite number, a perplexity at least 1; None where the revision has none.

        Raises UserError where it is anything else.
        """
        value = self.metrics.get(kind, {}).get(name, {}).get(key)
        if value is None:
            return None
        least = 1.0 if key.split(".")[-1] == "perplexity" else -math.inf
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= sys.float_info.max:
            raise self._damaged(f"metrics/{kind}/{name}.json", f"{key} cannot be {value!r:.40}")
        return float(value)

    def perplexity(self, variant: str, split: str) -> float | None:
        """The variant's exact perplexity on ``split``."""
        return self.metric("evaluate", variant, f"{split}.perplexity")

    def _matching(self, pattern: str) -> list[str]:
        return [path for path in self.files if PurePosixPath(path).match(pattern)]

    def _text(self, path: str) -> str:
        try:
            return (self.read(path) or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(path, str(error)) from None

    def _yaml(self, path: str) -> dict[str, Any]:
        value = parse_yaml(self._text(path), f"{path} of {self.name}")
        return value if isinstance(value, dict) else {}

    def _damaged(self, path: str, why: str) -> UserError:
        return UserError(f"{path} of {self.name} is damaged: {why}")


def find_revision(name: str) -> Revision:
    """The workspace, a DVC experiment or anything that git resolves, in this order.

    Raises UserError, with close matches, where it is none of them.
    """
    if name == WORKSPACE:
        return Revision(name, None)
    known = experiments()
    if name in known:
        return _experiment(name, known[name])
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if commit is None:
        if _git("rev-parse", "--git-dir") is None:
            raise UserError(f"{Path.cwd()} is in no git repository: run this in the project")
        names = [*known, *_branches_and_tags(), WORKSPACE]
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see dvc exp list and git branch"
        raise UserError(f"{name!r} is no experiment, branch, tag or commit here: {hint}")
    return Revision(name, commit.decode().split()[-1])


def find_revisions(names: list[str]) -> list[Revision]:
    """All that ``names`` mean, each once; ``sweep-*`` means the experiments of such names."""
    known = experiments()
    found: dict[str, Revision] = {}
    for name in names:
        if not re.search(r"[*?\[]", name):
            found[name] = find_revision(name)
            continue
        matching = sorted(fnmatch.filter(known, name), key=natural)
        if not matching:
            raise UserError(f"no experiment is named like {name!r}: see dvc exp list")
        found |= {one: _experiment(one, known[one]) for one in matching}
    return list(found.values())


def experiments() -> dict[str, dict[str, str]]:
    """By experiment name, its commit by the commit that it started from."""
    found: dict[str, dict[str, str]] = {}
    listed = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps") or b""
    for line in listed.decode().splitlines():
        commit, reference = line.split(" ", 1)
        if match := _EXPERIMENT.fullmatch(reference):
            found.setdefault(match[3], {})[match[1] + match[2]] = commit
    return found


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, by dotted keys. Lists and empty mappings stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[str(key)] = value
    return flat


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that puts 9 before 10, within a text too."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(p), "") if n % 2 else (0, 0.0, p) for n, p in enumerate(parts)]


def _experiment(name: str, by_start: Mapping[str, str]) -> Revision:
    """The one experiment of this name; of several, the one that started from HEAD."""
    if len(by_start) == 1:
        return Revision(name, *by_start.values())
    head = (_git("rev-parse", "HEAD") or b"").decode().strip()
    if head not in by_start:
        commits = ", ".join(commit[:7] for commit in by_start.values())
        raise UserError(f"{name!r} names several experiments: give one of the commits {commits}")
    return Revision(name, by_start[head])


def _branches_and_tags() -> list[str]:
    listed = _git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags") or b""
    return listed.decode().split()


def _git(*arguments: str) -> bytes | None:
    """What git prints, or None where it fails."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed, and the results of revisions lie in git") from None
    return result.stdout if result.returncode == 0 else None
