"""The results of the pipelines as one git revision, DVC experiment or the workspace holds them.

Git keeps params, metrics, curves, samples, the figures of further seeds and both lock files. The
speed of a training is read from DVC's cache, if the lock names it and the cache has it. Paths are
relative to the folder that the tool runs in, which is the project's root.

A file of another revision was written by that revision's code, whose schema may have other keys. So
the tools check the numbers that they read, not the whole file.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from gru_lm.core.errors import DamagedFile, UserError
from gru_lm.core.params import parse_yaml
from gru_lm.results import Finite, Perplexity
from gru_lm.results.samples import parse_samples
from gru_lm.results.training import Curve, parse_curve

WORKSPACE: Final = "workspace"
SEED: Final = "train.seed"
LOCKS: Final = ("dvc.lock", "analysis/dvc.lock")
CACHE: Final = Path(".dvc/cache/files/md5")

# The kinds of metrics: metrics/<kind>/<variant>.json. What metrics/<variant>.json holds repeats
# some of them.
KINDS: Final = ("evaluate", "train", "timing")

_PERPLEXITY: Final[TypeAdapter[float]] = TypeAdapter(Perplexity)
_FINITE: Final[TypeAdapter[float]] = TypeAdapter(Finite)

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

    def output(self, path: str) -> bytes | None:
        """The bytes of a stage's output, from DVC's cache if git has none; None if neither has."""
        data = self.read(path)
        md5 = self.outputs.get(path)
        if data is None and self.commit is not None and md5:
            cached = CACHE / md5[:2] / md5[2:]
            return cached.read_bytes() if cached.is_file() else None
        return data

    def listing(self, folder: str) -> list[str]:
        """The files below ``folder``, relative to it, without __pycache__, which DVC ignores."""
        if self.commit is None:
            root = Path(folder)
            found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
            return [path.as_posix() for path in found if "__pycache__" not in path.parts]
        listed = _git("ls-tree", "-r", "-z", "--name-only", f"{self.commit}:./{folder}") or b""
        return [name.decode() for name in listed.split(b"\0") if name]

    @cached_property
    def files(self) -> list[str]:
        """The paths of the results that git keeps, sorted."""
        folders = ("metrics", "plots/train", "samples", "analysis/replicate")
        return sorted(f"{folder}/{name}" for folder in folders for name in self.listing(folder))

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml by dotted keys."""
        return flatten(self._yaml("params.yaml"))

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of both lock files, in their order.

        DVC never takes a stage out of them. Stages that the pipelines no longer have, and those of
        variants and seeds that the params no longer list, are left out here.
        """
        found: dict[str, Any] = {}
        for path in LOCKS:
            stages = self._yaml(path).get("stages") or {}
            known = self._yaml(path.replace(".lock", ".yaml")).get("stages") or stages
            found |= {
                name: stage
                for name, stage in stages.items()
                if name.partition("@")[0] in known or name in known
                if self._lists(name.partition("@")[2])
            }
        return found

    def _lists(self, item: str) -> bool:
        """Whether ``item`` of a stage's matrix, a variant or ``variant-seed``, is in the params."""
        variants, seeds = self.params.get("variants"), self.params.get("replicate.seeds")
        if not item or not isinstance(variants, list):
            return True
        with_seed = [f"{one}-{seed}" for one in variants for seed in seeds or []]
        return item in variants or item in with_seed

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The MD5 of each output in the lock files."""
        return {path: md5 for stage in self.lock.values() for path, md5 in hashes(stage, "outs")}

    def read_by(self, stage: str) -> dict[str, Any]:
        """The params that the lock files record of ``stage``, by dotted keys."""
        files = self.lock.get(stage, {}).get("params", {}).values()
        return {key: value for params in files for key, value in flatten(params).items()}

    @cached_property
    def variants(self) -> list[str]:
        """The variants that its params list, in that order; what others left behind is not read.

        A revision from before the list has whatever was trained, sorted.
        """
        named = self.params.get("variants")
        if isinstance(named, list):
            return [str(name) for name in named]
        trained = [*self._matching("metrics/train/*.json"), *self._matching("plots/train/*.tsv")]
        return sorted({PurePosixPath(path).stem for path in trained})

    @cached_property
    def metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The metrics by kind (evaluate, train, timing), variant and dotted key."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for kind in KINDS:
            for variant in self.variants:
                path = f"metrics/{kind}/{variant}.json"
                if (data := self.output(path)) is not None:
                    found.setdefault(kind, {})[variant] = self._json(path, data)
        return found

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """By variant, its (epoch, training perplexity) rows."""
        found = {}
        for variant in self.variants:
            path = f"plots/train/{variant}.tsv"
            if path in self.files:
                try:
                    found[variant] = parse_curve(self._text(path), Path(path))
                except DamagedFile as error:
                    raise UserError(f"{error} in {self.name}") from None
        return found

    @cached_property
    def samples(self) -> dict[str, dict[str, str]]:
        """By variant and heading ("greedy", "temperature 0.5"), the texts, one a line."""
        found: dict[str, dict[str, str]] = {}
        for variant in self.variants:
            path = f"samples/{variant}.txt"
            if path not in self.files:
                continue
            try:
                sections = parse_samples(self._text(path))
            except ValueError as error:
                raise self._damaged(path, str(error)) from None
            found[variant] = {name: "\n".join(texts) for name, texts in sections.items()}
        return found

    def metric(self, kind: str, variant: str, key: str) -> float | None:
        """One finite number, a perplexity at least 1; None if the revision has none.

        Raises UserError if it is anything else.
        """
        value = self.metrics.get(kind, {}).get(variant, {}).get(key)
        return self._number(f"metrics/{kind}/{variant}.json", key, value)

    def perplexity(self, variant: str, split: str) -> float | None:
        """The variant's exact perplexity on ``split``, trained from train.seed."""
        return self.metric("evaluate", variant, f"{split}.perplexity")

    def perplexities(self, variant: str, split: str) -> dict[int, float]:
        """The variant's exact perplexity on ``split`` by seed: train.seed first, then replicates.

        Replicates of another training (see ``stale_replicates``) are left out.
        """
        own = self.perplexity(variant, split)
        if own is None:
            return {}
        found = {int(self.params.get(SEED, 0)): own}
        stale = self.stale_replicates(variant)
        for seed, path in self._replicates(variant).items():
            key = f"scores.{split}.perplexity"
            value = self._number(path, key, self.replicates[path].get(key))
            if seed not in stale and value is not None:
                found.setdefault(seed, value)
        return found

    def stale_replicates(self, variant: str) -> list[int]:
        """The seeds whose replicate was trained with other params, data or code than the variant.

        What the lock files record of the replicate must agree with what they record of the
        variant's training and evaluation, for all that both have read. The seed itself aside.
        """
        stages = [f"train@{variant}", f"evaluate@{variant}"]
        params = {key: value for stage in stages for key, value in self.read_by(stage).items()}
        deps = {
            path: md5 for stage in stages for path, md5 in hashes(self.lock.get(stage, {}), "deps")
        }
        stale = []
        for seed in self._replicates(variant):
            name = f"replicate@{variant}-{seed}"
            other = any(params.get(key) != value for key, value in self.read_by(name).items())
            moved = any(
                deps.get(path, md5) != md5 for path, md5 in hashes(self.lock.get(name, {}), "deps")
            )
            if name not in self.lock or other or moved:
                stale.append(seed)
        return stale

    @cached_property
    def replicates(self) -> dict[str, dict[str, Any]]:
        """The figures of all further seeds, by dotted keys, by the paths of their files."""
        paths = [path for one in self.variants for path in self._replicates(one).values()]
        return {path: self.json(path) for path in paths}

    def _replicates(self, variant: str) -> dict[int, str]:
        """By seed, the path of the figures of the variant's training from it.

        The seeds are those in replicate.seeds of its params.
        """
        seeds = self.params.get("replicate.seeds")
        if not isinstance(seeds, list):
            return {}
        paths = {int(seed): f"analysis/replicate/{variant}-{seed}.json" for seed in seeds}
        return {seed: path for seed, path in paths.items() if path in self.files}

    def json(self, path: str) -> dict[str, Any]:
        """The JSON object ``path`` by dotted keys, empty if the revision has no such file."""
        data = self.read(path)
        return {} if data is None else self._json(path, data)

    def _number(self, path: str, key: str, value: Any) -> float | None:
        if value is None:
            return None
        kind = _PERPLEXITY if key.split(".")[-1] == "perplexity" else _FINITE
        try:
            return kind.validate_python(value, strict=True)
        except ValidationError:
            raise self._damaged(path, f"{key} cannot be {value!r:.40}") from None

    def _json(self, path: str, data: bytes) -> dict[str, Any]:
        """The JSON object ``data``, the content of ``path``, by dotted keys."""
        try:
            value = json.loads(self._text(path, data))
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, str(error)) from None
        if not isinstance(value, dict):
            raise self._damaged(path, "it does not hold a JSON object")
        return flatten(value)

    def _matching(self, pattern: str) -> list[str]:
        return [path for path in self.files if PurePosixPath(path).match(pattern)]

    def _text(self, path: str, data: bytes | None = None) -> str:
        """``data``, the content of ``path``, as text; by default, what git or the disk has."""
        try:
            return (data if data is not None else self.read(path) or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(path, str(error)) from None

    def _yaml(self, path: str) -> dict[str, Any]:
        value = parse_yaml(self._text(path), f"{path} of {self.name}")
        return value if isinstance(value, dict) else {}

    def _damaged(self, path: str, why: str) -> UserError:
        return UserError(f"{path} of {self.name} is damaged: {why}")


def hashes(stage: Mapping[str, Any], kind: str) -> list[tuple[str, str]]:
    """The (path, MD5) pairs that a lock file records of a stage's ``deps`` or ``outs``."""
    return [(item["path"], item.get("md5", "")) for item in stage.get(kind, [])]


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
