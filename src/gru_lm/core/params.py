"""Load params.yaml, validate all of it and return typed parts.

A class derived from ``TopLevel`` describes each part of the file. The class is in ``settings.py``
of the package that uses the part, and its fields are top-level keys of the file. A stage loads the
parts that it needs::

    training = load_params(TrainingSettings)
    training.train.lr

The rest of the file is validated too. An unknown key, a wrong type or an impossible value anywhere
stops every stage with the same message. The loader imports the other packages' ``settings.py``
for this check only. They cannot change the result of a stage, so they are not among its
dependencies in dvc.yaml.
"""

from __future__ import annotations

import difflib
import importlib
import reprlib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError, YAMLWarning
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner, ScannerError

from gru_lm.core.errors import MissingFile, UserError, one_line
from gru_lm.core.reading import read_bytes

PARAMS = Path("params.yaml")

LARGEST = 1 << 20  # bytes of a YAML file
DEPTH = 50  # maximal nesting of lists and mappings
STANDARD = "tag:yaml.org,2002:"  # YAML's own types, written !!int and so on
MERGED = 1000  # maximal number of keys in a mapping after merging with <<

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

BRIEF = reprlib.Repr()  # for values in messages: a few YAML aliases can expand to billions of items
BRIEF.maxlevel, BRIEF.maxstring, BRIEF.maxother, BRIEF.maxlong = 3, 80, 80, 80


class Section(BaseModel):
    """A section of params.yaml. It is immutable, has no extra keys and converts no values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TopLevel(Section):
    """Some of the top-level keys of params.yaml, one field each."""


Part = TypeVar("Part", bound=TopLevel)

# The sections that this process loaded last, by file.
_LOADED: dict[Path, dict[str, Any]] = {}


def load_params(part: type[Part], path: Path = PARAMS) -> Part:
    """Validate the whole file ``path`` and return its ``part``.

    Raises UserError if the file is missing, is not YAML, or has an unknown key, a wrong type or an
    impossible value. The message names the key, the value and the allowed values in one line.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of sections, such as 'train:'")
    parts: list[type[TopLevel]] = list(dict.fromkeys([*all_parts(), part]))
    known = [key for one in parts for key in one.model_fields]
    problems: list[tuple[ErrorDetails, list[str]]] = [
        ({"type": "extra_forbidden", "loc": (key,), "msg": "", "input": value}, known)
        for key, value in tree.items()
        if key not in known
    ]
    loaded: dict[type[TopLevel], TopLevel] = {}
    for one in parts:
        mine = {key: tree[key] for key in one.model_fields if key in tree}
        try:
            loaded[one] = one.model_validate(mine)
        except ValidationError as error:
            problems += [
                (problem, _known_keys(one, problem["loc"][:-1])) for problem in error.errors()
            ]
    if problems:
        raise UserError(f"{path}: {_explain(problems)}")
    found = loaded[part]
    assert isinstance(found, part)
    used = {key: tree.get(key) for key in part.model_fields}
    _LOADED.setdefault(path.absolute(), {}).update(used)
    return found


def require_unchanged(path: Path = PARAMS) -> None:
    """Raise UserError if a section that this process has loaded is another one in ``path`` now.

    DVC reads the params of a stage when the stage ends. After such a change it would record the
    result of the earlier values under the new ones.
    """
    loaded = _LOADED.get(path.absolute())
    if not loaded:
        return
    tree = read_yaml(path)
    now = tree if isinstance(tree, dict) else {}
    changed = [key for key, value in loaded.items() if now.get(key) != value]
    if changed:
        raise UserError(
            f"{path}: {', '.join(changed)} changed while the stage ran, so its result belongs to "
            "no params: run the stage again"
        )


def read_yaml(path: Path) -> Any:
    """Read the YAML file ``path`` with DVC's rules.

    Raises UserError if the file is missing, too large, not UTF-8 or not valid YAML.
    """
    try:
        data = read_bytes(path, LARGEST)
    except MissingFile:
        raise UserError(
            f"{path} is missing in {Path.cwd()}: run this from the project root"
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise UserError(f"{path} is not UTF-8 at byte {offset}: save it as UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Parse the YAML document ``text`` with DVC's rules: YAML 1.2 without duplicate keys.

    Raises UserError if it is not valid. The message calls the document ``name``.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Scanner, reader.Constructor, reader.max_depth = _Scanner, _Constructor, DEPTH
    try:
        with warnings.catch_warnings(action="ignore", category=YAMLWarning):
            return reader.load(text)
    except YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {_yaml_problem(error, text)}") from None


class _Scanner(Scanner):
    """ruamel.yaml's scanner, with a YAMLError for an invalid code point such as "\\U00110000"."""

    def fetch_more_tokens(self) -> Any:
        try:
            return super().fetch_more_tokens()
        except (ArithmeticError, ValueError) as error:
            raise ScannerError(None, None, str(error), self.reader.get_mark()) from None


class _Constructor(SafeConstructor):
    """ruamel.yaml's constructor, with a YAMLError and its position for every fault.

    It never expands data that a few aliases multiply. The values of a duplicate key are not
    printed, and the number of merged keys is limited. Texts have no lone surrogates, as no file
    name, file or terminal can contain them.
    """

    def construct_non_recursive_object(self, node: Any, tag: str | None = None) -> Any:
        try:
            value = super().construct_non_recursive_object(node, tag)
            if isinstance(value, int):
                str(value)  # raises above Python's limit of digits, which hexadecimal input evades
            if isinstance(value, str):
                value.encode("utf-8")
        except UnicodeEncodeError as error:
            problem = f"{error.object[error.start]!r} is half of a surrogate pair"
            raise ConstructorError(None, None, problem, node.start_mark) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            shown = BRIEF.repr(node.value) if isinstance(node.value, str) else node.id
            why = str(error).partition(";")[0]  # the rest is advice for programmers
            reason = "" if isinstance(error, LookupError) else f" ({why})"
            problem = f"{shown} is not of type {node.tag.rpartition(':')[2]}{reason}"
            raise ConstructorError(None, None, problem, node.start_mark) from None
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_mapping(node, deep)
        except TypeError:  # a list within a list as a key
            raise ConstructorError(None, None, "found unhashable key", node.start_mark) from None

    def check_mapping_key(
        self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any
    ) -> bool:
        if key in mapping:
            problem = f"duplicate key {BRIEF.repr(key)}"
            raise ConstructorError(None, None, problem, key_node.start_mark)
        return True

    def construct_yaml_timestamp(self, node: Any, values: Any = None) -> Any:
        self.construct_scalar(node)  # raises for a list or a mapping
        return super().construct_yaml_timestamp(node, values)

    def construct_undefined(self, node: Any) -> None:
        tag = node.tag.removeprefix(STANDARD)
        if tag == "merge":
            problem = "'<<' merges mappings and is no value: write '<<: *name', or quote it"
        elif tag == "value":
            problem = "'=' has a meaning of its own in YAML: quote it"
        else:
            problem = f"the tag {tag!r} is unknown here"
        raise ConstructorError(None, None, problem, node.start_mark)

    def flatten_mapping(self, node: Any) -> Any:
        super().flatten_mapping(node)
        if len(node.value) > MERGED and getattr(node, "merge", None):
            problem = f"over {MERGED} keys after merging"
            raise ConstructorError(None, None, problem, node.start_mark)


_Constructor.add_constructor(STANDARD + "timestamp", _Constructor.construct_yaml_timestamp)
_Constructor.add_constructor(None, _Constructor.construct_undefined)


@cache
def all_parts() -> tuple[type[TopLevel], ...]:
    """Return the parts that the packages of this library define, ordered by package name."""
    found: list[type[TopLevel]] = []
    for module in _settings_modules():
        for value in vars(importlib.import_module(module)).values():
            if isinstance(value, type) and issubclass(value, TopLevel) and value is not TopLevel:
                found.append(value)
    return tuple(dict.fromkeys(found))


def _settings_modules() -> Iterator[str]:
    library = Path(__file__).resolve().parents[1]
    for path in sorted(library.glob("*/settings.py")):
        yield f"{library.name}.{path.parent.name}.settings"


def _yaml_problem(error: YAMLError, text: str) -> str:
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, column = before.count("\n"), error.position - (before.rfind("\n") + 1)
        problem = f"the character #x{error.character:04x} is not allowed"
    else:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line, mark.column) if mark else (0, 0)
        problem = getattr(error, "problem", None) or str(error)
    if isinstance(error, MaxDepthExceededError):
        problem = "nested too deeply"
    return f"line {line + 1}, column {column + 1}: {one_line(problem, 200)}"


def _explain(problems: list[tuple[ErrorDetails, list[str]]]) -> str:
    """Return the first problem as one line. An unknown key goes first: it may be a misspelt one."""
    problem, known = min(problems, key=lambda one: one[0]["type"] != "extra_forbidden")
    keys = _keys(problem)
    where = ".".join(keys)
    where = one_line(where, 100)
    value = problem.get("input")
    match problem["type"]:
        case "extra_forbidden":
            return (
                f"unknown key {where!r}"
                + did_you_mean(keys[-1], known)
                + (f"; allowed here: {', '.join(known)}" if known else "; no key is allowed here")
            )
        case "missing":
            return f"key {where!r} is missing"
        case "value_error":
            reason = one_line(problem["ctx"]["error"], 300)
            named = not where or reason.startswith(f"{where}.")  # it names a key of the section
            return reason if named else f"{where}: {reason}"
        case _:
            reason = problem["msg"].removeprefix("Input ")
            alternatives = {
                other["msg"].removeprefix("Input ") for other, _ in problems if _keys(other) == keys
            }
            if len(alternatives) > 1:
                reason = " or ".join(sorted(alternatives))
            shown = BRIEF.repr(value)
            return f"{where} = {shown if len(shown) < 80 else shown[:77] + '...'}: {reason}"


def _keys(problem: ErrorDetails) -> list[str]:
    """Return the path of keys in the file that leads to ``problem``."""
    keys = [str(key) for key in problem["loc"]]
    # Pydantic appends the union member that it tried, or "[key]" if the key itself is invalid.
    tried = keys[-1:] and (
        keys[-1] in ("int", "float", "[key]") or keys[-1].startswith(("constrained-", "function-"))
    )
    return keys[:-1] if tried and problem["type"] not in ("extra_forbidden", "missing") else keys


def _known_keys(part: type[TopLevel], path: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed in the section at ``path`` of ``part``."""
    section: Any = part
    for key in path:
        if isinstance(section, type) and issubclass(section, BaseModel):
            field = section.model_fields.get(str(key))
            section = field.annotation if field else None
        elif get_origin(section) is dict:  # the user chooses the keys
            section = get_args(section)[1]
        else:
            return []
    if isinstance(section, type) and issubclass(section, BaseModel):
        return list(section.model_fields)
    return []


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint with the word in ``known`` closest to ``word``, or "" if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
