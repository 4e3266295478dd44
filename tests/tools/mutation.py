"""Mutation tests of the modules that protect data.

    python tests/tools/mutation.py [--module NAME ...] [--sample N] [--jobs J] [--output PATH]

Each mutant is a module with one change, such as a shifted comparison, a forced condition or a
removed statement. A mutant is killed if a test fails. The tests run in a copy of the project, the
fastest first. Only tests that ran the changed line or that start processes are run. Each run is
forked from a server that has imported the libraries. equivalent.yaml beside this file lists changes
that no test can detect, with the reason.

mutmut 3.8.1 and cosmic-ray 8.7.0 were tried as alternatives, on two cores. mutmut is fast (161
mutants of data/vocabulary in 29 s; this script needs 42 s for 71). However, it skips decorated
functions such as atomic_writer and constants (50 of the 703 changes made here), removes no
statements such as a call of fsync, and stops while it collects statistics, because stages that the
tests start in another folder find no configuration. cosmic-ray starts pytest for each mutant (19 of
the 89 of data/vocabulary in 60 s) and leaves changed source files if it is interrupted.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import itertools
import json
import multiprocessing
import os
import queue
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
COPIED = ("src", "stages", "tests", "corpora", "params.yaml", "dvc.yaml", "pyproject.toml")
TARGETS = {
    "data/vocabulary": ["tests/data/test_vocabulary.py"],
    "training/minibatches": ["tests/training/test_minibatches.py"],
    "core/reading": [
        *("tests/core/test_file_reading.py", "tests/core/test_decoding.py"),
        *("tests/data/test_text.py", "-k", "not enormous"),  # see LARGEST
    ],
    "core/files": ["tests/core/test_files.py", "tests/data/test_prepared.py"],
    "training/coverage": ["tests/training/test_times_trained.py"],
    "training/checkpoints": ["tests/training/test_checkpoints.py"],
    "corpus/sources": ["tests/corpus/test_fetch.py", "tests/corpus/test_texts.py"],
    "corpus/download": ["tests/corpus/test_fetch.py"],
    "corpus/web": ["tests/corpus/test_fetch.py"],
    "corpus/wire": ["tests/corpus/test_fetch.py"],
}
LIBRARIES = ("hypothesis", "pydantic", "pytest", "requests", "safetensors.torch", "torch", "yaml")
SLOWER = 6  # time limit of a mutant's tests, as a multiple of the time without a change,
GRACE = 10.0  # plus this many seconds
LARGEST = 1 << 26  # bytes of a file, so that a mutant without a size limit does not fill the disk


# The mutants


@dataclass(frozen=True)
class Mutant:
    """A changed module. ``lines`` are those of the changed statement, empty if run at import."""

    where: str  # module.function; the module is a path below src/gru_lm, without .py
    number: int
    line: str
    change: str
    source: str = field(repr=False)
    lines: range = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.where, self.line, self.change


SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.Is: ast.IsNot,
    ast.In: ast.NotIn,
    ast.And: ast.Or,
    ast.Add: ast.Sub,
    ast.Mult: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.BitOr: ast.BitAnd,
}
SWAPS |= {new: old for old, new in SWAPS.items()}
SWAPS |= {ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitXor: ast.BitAnd}
MESSAGES = {"UserError", "UnreachableError", "SourceFailed", "damaged", "missing", "warn"}


def alternatives(node: ast.AST, in_message: bool) -> Iterator[ast.AST]:
    """Return the mutations of ``node`` itself, without those of its children."""

    def with_(**fields: Any) -> ast.AST:
        new = copy.copy(node)
        vars(new).update(fields)
        return new

    match node:
        case ast.Compare(ops=ops):
            for number, op in enumerate(ops):
                yield with_(ops=[*ops[:number], SWAPS[type(op)](), *ops[number + 1 :]])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op):
            yield with_(op=SWAPS[type(op)]())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)) if not in_message:
            yield ast.Constant(f"XX{value}XX")
        case ast.Constant(value=bytes(value)) if not in_message:
            yield ast.Constant(b"XX" + value + b"XX")
        case ast.If() | ast.IfExp():
            yield with_(test=ast.Constant(True))
            yield with_(test=ast.Constant(False))
        case ast.While():
            yield with_(test=ast.Constant(False))
        case ast.comprehension(ifs=[_, *_]):
            yield with_(ifs=[])
        case ast.Return(value=value) if value and head(value) != "None":
            yield with_(value=ast.Constant(None))
        case ast.Expr() | ast.Raise() | ast.Break() | ast.Continue():
            yield ast.Pass()


def is_left_alone(node: object) -> bool:
    """Return whether ``node`` needs no mutants: a docstring, a type alias or a message."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()) | ast.JoinedStr():
            return True
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name == "__all__" or (name[0].isupper() and isinstance(value, ast.Subscript))
    return not isinstance(node, ast.AST)


@dataclass(frozen=True)
class Place:
    """The position of a node in its tree, with its function or class and its statement."""

    holder: Any  # the node is holder[key]
    key: int | str
    where: str
    statement: ast.stmt | None
    in_message: bool

    def inside(self) -> Iterator[Place]:
        """Return the positions of all nodes in this one."""
        fields = vars(self.holder[self.key])
        for name, value in fields.items():
            if name in ("annotation", "returns", "decorator_list"):
                continue
            in_list = isinstance(value, list)
            holder, keys = (value, range(len(value))) if in_list else (fields, [name])
            for key in keys:
                node = holder[key]
                if is_left_alone(node):
                    continue
                called = getattr(getattr(node, "func", None), "id", None)
                message = isinstance(node, ast.Raise) or called in MESSAGES
                named = isinstance(node, ast.FunctionDef | ast.ClassDef)
                place = Place(
                    holder,
                    key,
                    f"{self.where}.{node.name}" if named else self.where,
                    node if isinstance(node, ast.stmt) else self.statement,
                    self.in_message or message,
                )
                yield place
                yield from place.inside()


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Return all mutants of a module."""
    tree, text = ast.parse(source), source.splitlines()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for place in Place([tree], 0, module, None, False).inside():
        node, statement = place.holder[place.key], place.statement
        assert statement is not None
        body = getattr(statement, "body", None)
        end = body[0].lineno if body else (statement.end_lineno or 0) + 1
        lines = range(statement.lineno, max(statement.lineno + 1, end))
        if not any(f.body[0].lineno <= lines[0] <= (f.end_lineno or 0) for f in functions):
            lines = range(0)
        for new in alternatives(node, place.in_message):
            place.holder[place.key] = new
            mutated = ast.unparse(tree)
            place.holder[place.key] = node
            number: int = getattr(node, "lineno", statement.lineno)
            change = f"{head(node)} -> {head(new)}"
            yield Mutant(place.where, number, text[number - 1].strip(), change, mutated, lines)


def head(node: ast.AST) -> str:
    return ast.unparse(node).strip().splitlines()[0]


# Running tests


@dataclass
class Outcome:
    """A result of pytest. ``tests`` has each test's seconds and executed lines of the module."""

    code: int = 0
    timed_out: bool = False
    tests: dict[str, tuple[float, set[int]]] = field(default_factory=dict)


class Recorder:
    """A pytest plugin that runs the tests in ``order`` (None: all) and records the results."""

    def __init__(self, order: list[str] | None, traced: Path | None) -> None:
        self.order = order
        self.traced = str(traced)
        self.outcome = Outcome()
        self._trace = self._note if traced else None
        self._lines: set[int] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.order is not None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in self.order if name in by_name]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._lines, start = set(), time.perf_counter()
        sys.settrace(self._trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.outcome.tests[item.nodeid] = (time.perf_counter() - start, self._lines)

    def _note(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != self.traced:
            return None
        self._lines.add(frame.f_lineno)
        return self._note

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome.timed_out |= "Timeout (>" in report.longreprtext


def run_pytest(
    answer: Connection, root: Path, targets: list[str], limit: float, recorder: Recorder
) -> None:
    """Run tests in the copy ``root``, in this process, with the output in a file there."""
    os.setsid()  # it can be killed with its child processes as one group
    os.chdir(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))
    with Path("output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root)])
    sys.path[:0] = [str(root / "src"), str(root)]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--timeout={limit}"]
    code = int(pytest.main([*targets, *options], plugins=[recorder]))
    recorder.outcome.code = 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code
    package = sys.modules.get("gru_lm")
    if package and not Path(package.__file__ or "").is_relative_to(root):
        raise RuntimeError(f"the tests ran {package.__file__}, not the copy in {root}")
    answer.send(recorder.outcome)


class Workplace:
    """A copy of the project for one mutant at a time."""

    _times = itertools.count(1_000_000_000, 10)

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
        for name in COPIED:
            if (PROJECT / name).is_dir():
                shutil.copytree(PROJECT / name, root / name, ignore=ignored)
            else:
                shutil.copy2(PROJECT / name, root / name)

    def path(self, module: str) -> Path:
        return self.root / f"src/gru_lm/{module}.py"

    def run(
        self,
        module: str,
        source: str,
        order: list[str] | None = None,
        trace: bool = False,
        limits: tuple[float, float] = (300.0, 600.0),
    ) -> Outcome:
        """Run the tests on ``source`` as the module. ``limits`` are those per test and in all."""
        path = self.path(module)
        original = path.read_bytes()
        path.write_text(source, encoding="utf-8")
        now = next(self._times)  # Python detects an outdated .pyc by its time only
        os.utime(path, (now, now))
        context = multiprocessing.get_context("forkserver")
        answer, theirs = context.Pipe(duplex=False)
        recorder = Recorder(order, path if trace else None)
        process = context.Process(
            target=run_pytest, args=(theirs, self.root, TARGETS[module], limits[0], recorder)
        )
        process.start()
        theirs.close()
        try:
            if not answer.poll(limits[1]):
                return Outcome(1, timed_out=True)
            outcome: Outcome = answer.recv()
            process.join(GRACE)
            return outcome
        except EOFError:
            return Outcome(1)  # the process died
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
            path.write_bytes(original)


def check(
    module: str, workplaces: list[Workplace], sample: int | None, known: set[Any]
) -> dict[str, Any]:
    """Test the module's mutants except the ``known`` ones, and return the report."""
    source = workplaces[0].path(module).read_text(encoding="utf-8")
    traced = workplaces[0].run(module, source, trace=True)
    timed = workplaces[0].run(module, ast.unparse(ast.parse(source)))
    if traced.code or timed.code:
        output = (workplaces[0].root / "output.txt").read_text(encoding="utf-8")
        raise SystemExit(f"the tests of {module} fail without a change\n{output}")
    seconds = {name: took for name, (took, _) in timed.tests.items()}
    ran = {name: lines for name, (_, lines) in traced.tests.items()}
    # Tests that did not run the module in this process may run it in others; then one now fails.
    elsewhere = [name for name in ran if not ran[name]]
    broken = f"{source}\nimport sys\nassert 'pytest' in sys.modules\n"
    if elsewhere and not workplaces[0].run(module, broken, elsewhere).code:
        elsewhere = []

    every = list(mutants(module, source))
    tried = [mutant for mutant in every if mutant.key not in known]
    if unknown := {key for key in known if key[0].split(".")[0] == module} - {m.key for m in every}:
        raise SystemExit(f"equivalent.yaml lists unknown mutants of {module}: {unknown}")
    equivalent = len(every) - len(tried)
    if sample is not None and sample < len(tried):
        tried = random.Random(0).sample(tried, sample)

    free: queue.SimpleQueue[Workplace] = queue.SimpleQueue()
    for workplace in workplaces:
        free.put(workplace)

    def attempt(mutant: Mutant) -> Outcome:
        lines = set(mutant.lines)
        order = [name for name in ran if not lines or name in elsewhere or lines & ran[name]]
        order.sort(key=seconds.__getitem__)
        times = [SLOWER * seconds[name] + GRACE for name in order] or [GRACE]
        workplace = free.get()
        try:
            limits = (max(times), SLOWER * sum(seconds.values()) + 3 * GRACE)
            return workplace.run(module, mutant.source, order, limits=limits)
        finally:
            free.put(workplace)

    killed, timed_out, survivors = 0, 0, []
    with ThreadPoolExecutor(len(workplaces)) as pool:
        for mutant, outcome in zip(tried, pool.map(attempt, tried), strict=True):
            timed_out += outcome.timed_out
            killed += outcome.code != 0 and not outcome.timed_out
            if not outcome.code:
                survivors.append(dict(zip(("where", "line", "change"), mutant.key, strict=True)))
                print(f"{module}:{mutant.number}  {mutant.change}  # {mutant.where}", flush=True)
    return {
        "mutants": len(every),
        "equivalent": equivalent,
        "killed": killed,
        "timed out": timed_out,
        "survived": len(survivors),
        "share": 1 - len(survivors) / max(1, len(tried)),
        "survivors": survivors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--sample", type=int, help="so many mutants of each module, at random")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for the report")
    options = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(LIBRARIES))
    listed = yaml.safe_load(Path(__file__).with_name("equivalent.yaml").read_text("utf-8"))
    known = {(entry["where"], entry["line"], entry["change"]) for entry in listed}
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        workplaces = [Workplace(Path(folder, str(n)).resolve()) for n in range(options.jobs)]
        row = "{:22}{:>9}{:>12}{:>8}{:>11}{:>10}{:>8}"
        print(row.format("", "mutants", "equivalent", "killed", "timed out", "survived", "share"))
        report = {}
        for name in options.module:
            report[name] = check(name, workplaces, options.sample, known)
            *numbers, share = list(report[name].values())[:6]
            print(row.format(name, *numbers, f"{share:.1%}"), flush=True)
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
