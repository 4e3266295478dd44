"""Read the results of a git revision, a DVC experiment or the workspace.

Git has params, metrics, curves, samples, the results of further seeds and both lock files. The
speed of a training is in DVC's cache, if the lock file names it. Paths are relative to the current
folder, which must be the project root.

Another revision's code may have written its files with another schema. The tools therefore validate
the numbers that they read and not whole files.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from gru_lm.core.errors import DamagedFile, MissingFile, UserError
from gru_lm.core.params import parse_yaml
from gru_lm.core.reading import ANY, opened, read_bytes
from gru_lm.results import Finite, Perplexity
from gru_lm.results.samples import parse_samples
from gru_lm.results.training import LARGEST, Curve, parse_curve

WORKSPACE: Final = "workspace"
SEED: Final = "train.seed"
LOCKS: Final = ("dvc.lock", "analysis/dvc.lock")
CACHE: Final = Path(".dvc/cache/files/md5")

# The kinds of metrics, in metrics/<kind>/<variant>.json. metrics/<variant>.json repeats some.
KINDS: Final = ("evaluate", "train", "timing")

_PERPLEXITY: Final[TypeAdapter[float]] = TypeAdapter(Perplexity)
_FINITE: Final[TypeAdapter[float]] = TypeAdapter(Finite)

# refs/exps/<first 2 digits of the experiment's base commit>/<other 38 digits>/<name>
_EXPERIMENT: Final = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/([^/]+)")


@dataclass(frozen=True)
class Revision:
    """One state of the project. ``commit`` is None for the workspace."""

    name: str
    commit: str | None

    def read(self, path: str) -> bytes | None:
        """Return the file's bytes, or None if the revision has no such file."""
        if self.commit is None:
            return _content(Path(path))
        blob = self._blobs.get(path)
        return None if blob is None else _git("cat-file", "blob", blob)

    def md5(self, path: str) -> str | None:
        """Return the MD5 of a file of any size, or None if the revision has no such file."""
        digest = hashlib.md5(usedforsecurity=False)
        if self.commit is None:
            if not Path(path).is_file():
                return None
            with opened(Path(path), ANY) as file:
                while part := file.read(1 << 20):
                    digest.update(part)
        elif (data := self.read(path)) is None:
            return None
        else:
            digest.update(data)
        return digest.hexdigest()

    def output(self, path: str) -> bytes | None:
        """Return the bytes of a stage's output from git or DVC's cache, or None."""
        data = self.read(path)
        md5 = self.outputs.get(path)
        if data is None and self.commit is not None and md5:
            return _content(CACHE / md5[:2] / md5[2:])
        return data

    def listing(self, folder: str) -> list[str]:
        """Return the files in ``folder`` and below, as DVC does: relative, without __pycache__."""
        if self.commit is None:
            root = Path(folder)
            found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
            return [path.as_posix() for path in found if "__pycache__" not in path.parts]
        start = f"{folder}/"
        return [path.removeprefix(start) for path in self._blobs if path.startswith(start)]

    @cached_property
    def _blobs(self) -> dict[str, str]:
        """The object names of all files of the commit by path.

        A path that is not listed does not exist. Any failure of git is therefore an error.
        """
        listed = _git("ls-tree", "-r", "-z", str(self.commit))
        entries = [entry.partition(b"\t") for entry in listed.split(b"\0") if entry]
        files = [(os.fsdecode(path), about.decode().split()) for about, _, path in entries]
        return {path: name for path, (_, kind, name) in files if kind == "blob"}

    @cached_property
    def files(self) -> list[str]:
        """The sorted paths of the results in git."""
        folders = ("metrics", "plots/train", "samples", "analysis/replicate")
        return sorted(f"{folder}/{name}" for folder in folders for name in self.listing(folder))

    @cached_property
    def params(self) -> dict[str, Any]:
        """params.yaml by dotted keys."""
        return flatten(self._yaml("params.yaml"))

    @cached_property
    def lock(self) -> dict[str, Any]:
        """The stages of both lock files, in their order.

        DVC never removes stages from lock files. Stages that were removed from the pipelines, and
        those of removed variants and seeds, are left out here.
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
        """Return whether the params list ``item``, a variant or ``variant-seed``."""
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
        """Return the params of ``stage`` in the lock files by dotted key."""
        files = self.lock.get(stage, {}).get("params", {}).values()
        return {key: value for params in files for key, value in flatten(params).items()}

    @cached_property
    def variants(self) -> list[str]:
        """The variants listed in the params, in that order.

        For revisions older than this list, these are all trained variants, sorted.
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
        """The rows (epoch, training perplexity) by variant."""
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
        """The texts, one per line, by variant and heading ("greedy", "temperature 0.5")."""
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
        """Return one metric, or None if the revision does not have it.

        Raises UserError unless it is a finite number, which must be at least 1 for a perplexity.
        """
        value = self.metrics.get(kind, {}).get(variant, {}).get(key)
        return self._number(f"metrics/{kind}/{variant}.json", key, value)

    def perplexity(self, variant: str, split: str) -> float | None:
        """Return the variant's exact perplexity on ``split`` with train.seed."""
        return self.metric("evaluate", variant, f"{split}.perplexity")

    def bits_per_character(self, variant: str, split: str) -> float | None:
        """Return the variant's bits per character on ``split``, None if a token is a word."""
        of = {"char": "bits_per_token", "bpe": "bits_per_character"}.get(self._tokens)
        return None if of is None else self.metric("evaluate", variant, f"{split}.{of}")

    def characters(self, variant: str, split: str) -> float | None:
        """Return the number of characters predicted on ``split``, None if a token is a word."""
        of = {"char": "tokens", "bpe": "characters"}.get(self._tokens)
        return None if of is None else self.metric("evaluate", variant, f"{split}.{of}")

    @property
    def _tokens(self) -> str:
        return str(self.params.get("prepare.tokens"))

    def perplexities(self, variant: str, split: str) -> dict[int, float]:
        """Return the variant's exact perplexity on ``split`` by seed, with train.seed first.

        Stale replicates (see ``stale_replicates``) are left out.
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
        """Return the seeds of replicates with other params, data or code than the variant.

        The lock files must record the same params (except the seed) and dependencies for the
        replicate as for the variant's training and evaluation, as far as both have them.
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
        """The results of all further seeds by path and dotted key."""
        paths = [path for one in self.variants for path in self._replicates(one).values()]
        return {path: self.json(path) for path in paths}

    def _replicates(self, variant: str) -> dict[int, str]:
        """Return the paths of the variant's results by seed, for the seeds in replicate.seeds."""
        seeds = self.params.get("replicate.seeds")
        if not isinstance(seeds, list):
            return {}
        paths = {int(seed): f"analysis/replicate/{variant}-{seed}.json" for seed in seeds}
        return {seed: path for seed, path in paths.items() if path in self.files}

    def json(self, path: str) -> dict[str, Any]:
        """Return the JSON object ``path`` by dotted key, empty if the revision has no such file."""
        data = self.read(path)
        return {} if data is None else self._json(path, data)

    def _number(self, path: str, key: str, value: Any) -> float | None:
        if value is None:
            return None
        kind = _PERPLEXITY if key.split(".")[-1] == "perplexity" else _FINITE
        try:
            return kind.validate_python(value, strict=True)
        except ValidationError:
            raise self._damaged(path, f"{key} is {value!r:.40}") from None

    def _json(self, path: str, data: bytes) -> dict[str, Any]:
        """Parse ``data``, the content of ``path``, and return the JSON object by dotted key."""
        try:
            value = json.loads(self._text(path, data))
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, str(error)) from None
        if not isinstance(value, dict):
            raise self._damaged(path, "it is not a JSON object")
        return flatten(value)

    def _matching(self, pattern: str) -> list[str]:
        return [path for path in self.files if PurePosixPath(path).match(pattern)]

    def _text(self, path: str, data: bytes | None = None) -> str:
        """Decode ``data``, the content of ``path``. It is read if not given."""
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
    """Return the (path, MD5) pairs of a stage's ``deps`` or ``outs`` in a lock file."""
    return [(item["path"], item.get("md5", "")) for item in stage.get(kind, [])]


def find_revision(name: str) -> Revision:
    """Find the workspace, a DVC experiment or anything that git resolves, in this order.

    Raises UserError with close matches if there is none.
    """
    if name == WORKSPACE:
        return Revision(name, None)
    known = experiments()
    if name in known:
        return _experiment(name, known[name])
    commit = _commit(name)
    if commit is None:
        names = [*known, *_branches_and_tags(), WORKSPACE]
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see dvc exp list and git branch"
        raise UserError(f"{name!r} is not an experiment, branch, tag or commit: {hint}")
    return Revision(name, commit)


def find_revisions(names: list[str]) -> list[Revision]:
    """Find the revisions ``names``, each once. Patterns such as ``sweep-*`` match experiments."""
    known = experiments()
    found: dict[str, Revision] = {}
    for name in names:
        if not re.search(r"[*?\[]", name):
            found[name] = find_revision(name)
            continue
        matching = sorted(fnmatch.filter(known, name), key=natural)
        if not matching:
            raise UserError(f"no experiment matches {name!r}: see dvc exp list")
        found |= {one: _experiment(one, known[one]) for one in matching}
    return list(found.values())


def experiments() -> dict[str, dict[str, str]]:
    """Return the commits of experiments by name and by base commit."""
    found: dict[str, dict[str, str]] = {}
    listed = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    for line in listed.decode().splitlines():
        commit, reference = line.split(" ", 1)
        if match := _EXPERIMENT.fullmatch(reference):
            found.setdefault(match[3], {})[match[1] + match[2]] = commit
    return found


def _content(path: Path) -> bytes | None:
    """Return the bytes of ``path``, or None if it is no file. Raises DamagedFile."""
    if path.is_dir():
        return None
    try:
        return read_bytes(path, LARGEST)
    except MissingFile:
        return None


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings to dotted keys. Lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[str(key)] = value
    return flat


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key that puts 9 before 10, also within a text."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(p), "") if n % 2 else (0, 0.0, p) for n, p in enumerate(parts)]


def _experiment(name: str, by_start: Mapping[str, str]) -> Revision:
    """Return the experiment of this name. If there are several, return the one based on HEAD."""
    if len(by_start) == 1:
        return Revision(name, *by_start.values())
    head = _commit("HEAD")
    if head is None or head not in by_start:
        commits = ", ".join(commit[:7] for commit in by_start.values())
        raise UserError(f"{name!r} matches several experiments: use one of the commits {commits}")
    return Revision(name, by_start[head])


def _branches_and_tags() -> list[str]:
    listed = _git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags")
    return listed.decode().split()


def _commit(name: str) -> str | None:
    """Return the commit that git resolves ``name`` to, or None if there is none."""
    found = _git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", empty=1
    )
    return found.decode().split()[-1] if found.strip() else None


def is_tracked(path: str) -> bool:
    """Return whether git knows the file or folder: it is committed, or was added."""
    return bool(_git("ls-files", "-z", "--", f":(literal){path}"))


def _git(*arguments: str, empty: int = 0) -> bytes:
    """Run git and return its output.

    ``empty`` is an exit status that means an empty answer. Raises UserError with git's own words if
    git fails with any other status, and if git is missing.
    """
    try:
        result = subprocess.run(
            ["git", *arguments],
            env=os.environ | {"LC_ALL": "C"},  # the message is part of an English one
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(
            "git is not installed: install it to read the results of revisions"
        ) from None
    if result.returncode not in (0, empty):
        raise UserError(_refusal(arguments[0], result))
    return result.stdout if result.returncode == 0 else b""


def _refusal(command: str, result: subprocess.CompletedProcess[bytes]) -> str:
    """Return git's reason for a failure, and the command that it recommends."""
    lines = result.stderr.decode("utf-8", "replace").splitlines()
    own = [line for line in lines if line.startswith(("fatal: ", "error: "))]
    reason = (own or lines or [f"exit status {result.returncode}"])[0]
    reason = re.sub("^(fatal|error): ", "", reason)
    if reason.startswith("not a git repository"):
        return f"{Path.cwd()} is not in a git repository: run this in the project"
    remedies = [line.strip() for line in lines if line.startswith("\t")]
    remedy = f": run {remedies[0]}" if remedies else ""
    return f"git {command} failed in {Path.cwd()}: {reason}{remedy}"
