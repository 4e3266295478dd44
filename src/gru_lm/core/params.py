"""The experiment's settings: params.yaml, read once into typed and validated objects.

An unknown key, a wrong type or an impossible value raises UserError with one line that names the
key, the value and what is allowed. Each field below carries its unit and range.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gru_lm.core.errors import UserError

Variant = Literal["scratch", "concise", "fused"]
Precision = Literal["fp32", "tf32", "bf16"]

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
SplitSize = Annotated[int, Field(ge=2, le=10**12)] | Annotated[float, Field(gt=0, lt=1)]


BRIEF = reprlib.Repr()  # values in messages: a few YAML aliases can stand for billions of items
BRIEF.maxlevel, BRIEF.maxstring, BRIEF.maxother, BRIEF.maxlong = 3, 80, 80, 80


class Section(BaseModel):
    """A part of params.yaml: every key known, no value converted silently, nothing mutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CorpusSource(Section):
    """Where a corpus comes from: addresses (tried in order) or a file of the project.

    ``file`` is its name in a mirror; without it, the last part of the first address. ``sha256``
    decides whether bytes are the right ones; without it, whatever comes is taken and its
    checksum recorded.
    """

    urls: Annotated[list[str], Field(min_length=1, max_length=16)] | None = None
    path: str | None = None
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @field_validator("urls")
    @classmethod
    def _web_addresses(cls, urls: list[str] | None) -> list[str] | None:
        for url in urls or []:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is not an http or https address")
        return urls

    @field_validator("path")
    @classmethod
    def _inside_the_project(cls, path: str | None) -> str | None:
        if path is not None:
            parts = PurePosixPath(path)
            if not path.strip() or parts.is_absolute() or ".." in parts.parts or "\0" in path:
                raise ValueError(
                    "must be a relative path inside the project, such as corpora/a.txt"
                )
        return path

    @model_validator(mode="after")
    def _one_source(self) -> CorpusSource:
        if (self.urls is None) == (self.path is None):
            raise ValueError("give either 'urls' or 'path', and not both")
        return self

    @property
    def mirror_name(self) -> str | None:
        """The file's name in a mirror, or None where neither ``file`` nor an address gives one."""
        if self.file or not self.urls:
            return self.file
        name = PurePosixPath(urlsplit(self.urls[0]).path).name
        return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) else None


class Fetch(Section):
    """Which corpus, and the patience with its addresses (seconds, bytes)."""

    corpus: Name
    timeout: Annotated[float, Field(gt=0, le=3600)]
    retries: Annotated[int, Field(ge=0, le=10)]
    max_bytes: Annotated[int, Field(ge=1, le=10**11)]


class Split(Section):
    """Tokens for training, validation and test, in this order from the start of the corpus.

    Either all are numbers of tokens or all are fractions of the corpus that sum to at most 1.
    """

    train: SplitSize
    val: SplitSize
    test: SplitSize

    @model_validator(mode="after")
    def _one_unit(self) -> Split:
        sizes = (self.train, self.val, self.test)
        if len({type(size) for size in sizes}) > 1:
            raise ValueError("train, val and test must all be counts or all be fractions")
        if isinstance(self.train, float) and math.fsum(sizes) > 1 + 1e-9:
            raise ValueError(f"the fractions sum to {math.fsum(sizes):g}, more than 1")
        return self


class Prepare(Section):
    """From text to tokens."""

    normalize: Literal["letters", "none"]
    tokens: Literal["char", "word"]
    min_freq: Annotated[int, Field(ge=0, le=10**9)]
    reserved_tokens: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=1000)]
    split: Split

    @field_validator("reserved_tokens")
    @classmethod
    def _distinct(cls, tokens: list[str]) -> list[str]:
        if len(set(tokens)) < len(tokens) or "<unk>" in tokens:
            raise ValueError("reserved tokens must differ from each other and from <unk>")
        return tokens


class EquationOptions(Section):
    """Where the reset gate acts: before the recurrent product (the textbook) or after it."""

    reset: Literal["before", "after"]


class ConciseOptions(Section):
    """``nn.GRU`` has no choices of its own here."""


class Model(Section):
    """The sizes that all variants share, and what only one of them has."""

    hidden_size: Annotated[int, Field(ge=1, le=16_384)]
    scratch: EquationOptions
    concise: ConciseOptions
    fused: EquationOptions

    def options(self, variant: Variant) -> dict[str, Any]:
        """The keyword arguments of one variant's constructor, without the vocabulary size."""
        return {"hidden_size": self.hidden_size, **getattr(self, variant).model_dump()}


class Train(Section):
    """The training run.

    ``clip_norm`` bounds the gradient's Euclidean norm; null leaves it. ``precision`` is that of the
    matrix products, and in concise of the states; weights and losses stay in float32. ``threads``
    is the number that one training uses on a CPU; null takes all cores. ``deterministic`` asks for
    the same bytes in every run on a GPU too. ``validate_every`` is the number of epochs from one
    look at the validation split to the next; ``select`` says whose weights are kept, the last
    epoch's or those with the lowest perplexity at such a look.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    num_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    partition: Literal["sequential", "random"]
    optimizer: Literal["sgd", "adam"]
    lr: Annotated[float, Field(gt=0, le=1000)]
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None
    precision: Precision
    threads: Annotated[int, Field(ge=1, le=4096)] | None
    seed: Seed
    deterministic: bool
    validate_every: Count
    select: Literal["last", "best_val"]


class Replicate(Section):
    """The seeds from which every variant is trained besides ``train.seed``, to show the spread."""

    seeds: Annotated[list[Seed], Field(max_length=1000)]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("the seeds must differ from each other")
        return seeds


class Checkpoint(Section):
    """How often the training keeps a checkpoint, in epochs. It changes no result."""

    every: Count


class Gate(Section):
    """By what share held-out perplexity may rise in a pull request. It changes no result."""

    max_perplexity_rise: Annotated[float, Field(ge=0, le=1e6)]


class Sample(Section):
    """The text to generate after each prefix: greedily, and at each temperature.

    ``top_k`` keeps only the k likeliest tokens at each step of a draw; null keeps all.
    """

    prefixes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    length: Annotated[int, Field(ge=1, le=1_000_000)]
    temperatures: list[Annotated[float, Field(gt=0, le=100)]]
    top_k: Annotated[int, Field(ge=1, le=10_000_000)] | None
    seed: Seed


class Gates(Section):
    """The passage of each split, in tokens, on which gates and surprise are recorded."""

    start: Annotated[int, Field(ge=0, le=10**12)]
    length: Annotated[int, Field(ge=2, le=5000)]


class Settings(Section):
    """All of params.yaml."""

    device: Literal["auto", "cpu", "cuda"]
    fetch: Fetch
    corpora: dict[Name, CorpusSource]
    prepare: Prepare
    model: Model
    train: Train
    checkpoint: Checkpoint
    gate: Gate
    sample: Sample
    replicate: Replicate
    gates: Gates

    @model_validator(mode="after")
    def _corpus_is_known(self) -> Settings:
        if self.fetch.corpus not in self.corpora:
            raise ValueError(
                f"fetch.corpus: {self.fetch.corpus!r} is no entry of corpora"
                + _did_you_mean(self.fetch.corpus, list(self.corpora))
                + f"; allowed: {', '.join(self.corpora)}"
            )
        return self


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and validate ``path``.

    Raises UserError where the file is missing, is not YAML, or holds an unknown key, a wrong
    type or an impossible value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing in {Path.cwd()}: run the stage from the project's root"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    try:
        tree = yaml.load(text, Loader=Yaml12Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold a mapping of sections, such as 'train:'")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, tree)}") from None


class Yaml12Loader(yaml.SafeLoader):
    """PyYAML's safe loader, reading numbers and duplicate keys as DVC does (YAML 1.2).

    DVC writes a learning rate of 0.00001 as ``1e-05``, which YAML 1.1 takes for text, and
    refuses a key that stands twice, of which YAML 1.1 silently takes the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float)) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(str(key) if not isinstance(key, (str, int, float)) else key)
        return super().construct_mapping(node, deep)


def _read_as_yaml_1_2(loader: type[yaml.SafeLoader]) -> None:
    """Give ``loader`` the booleans, integers and floats of YAML 1.2's core schema.

    In YAML 1.1 ``no`` is false, ``0700`` is 448 and ``1:30`` is 90.
    """
    tags = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float")}
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in tags]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", r"[-+]?\d+", "-+0123456789"),
        (
            "float",
            r"[-+]?(\.\d+|\d+\.\d*|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            "-+.0123456789",
        ),
    ):
        loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), list(first)
        )
    loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


_read_as_yaml_1_2(Yaml12Loader)


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or "nested too deeply"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _explain(error: ValidationError, tree: dict[str, Any]) -> str:
    """The first problem as one line; an unknown key first, as it often explains a missing one."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    # Pydantic adds the union member it tried to the location: not a key of the file.
    keys = [str(key) for key in problem["loc"] if not _is_union_tag(key)]
    where = ".".join(keys)
    value = problem.get("input")
    match problem["type"]:
        case "extra_forbidden":
            known = _known_keys(keys[:-1])
            return (
                f"unknown key {where!r}"
                + _did_you_mean(keys[-1], known)
                + (f"; allowed here: {', '.join(known)}" if known else "; no key is allowed here")
            )
        case "missing":
            return f"key {where!r} is missing"
        case "value_error":
            reason = str(problem["ctx"]["error"])
            return f"{where}: {reason}" if where else reason
        case _:
            reason = problem["msg"].removeprefix("Input ")
            alternatives = {
                other["msg"].removeprefix("Input ")
                for other in problems
                if [str(key) for key in other["loc"] if not _is_union_tag(key)] == keys
            }
            if len(alternatives) > 1:
                reason = " or ".join(sorted(alternatives))
            shown = BRIEF.repr(value)
            return f"{where} = {shown if len(shown) < 80 else shown[:77] + '...'}: {reason}"


def _is_union_tag(key: int | str) -> bool:
    return isinstance(key, str) and (
        key in ("int", "float", "[key]") or key.startswith(("constrained-", "function-"))
    )


def _known_keys(path: list[str]) -> list[str]:
    """The keys that the section at ``path`` allows."""
    section: Any = Settings
    for key in path:
        if section is Settings and key == "corpora":
            continue
        if section is Settings and path[0] == "corpora":
            section = CorpusSource
            continue
        section = section.model_fields[key].annotation
    return list(section.model_fields)


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
