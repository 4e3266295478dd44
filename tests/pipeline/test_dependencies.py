"""The deps of each stage are exactly the project's files that it uses.

A folder among the deps includes all modules in it. A stage may import a settings.py that is not
among its deps, as this only validates other parts of params.yaml and cannot change a result.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, Pipeline
from stages_of import STAGES, VARIANTS
from warm import Stage

# The stages that compute with torch; the others must start without it.
WITH_TORCH = {"train", "replicate", "evaluate", "sample", "export", "gates"}

# What a variant of another kind would use, as a matrix has the same deps for each variant, and what
# builds a model with several layers, an embedding or dropout.
OTHER_MODELS = {
    *("src/gru_lm/models/stepper.py", "src/gru_lm/models/layer.py", "src/gru_lm/models/stack.py"),
    *(f"src/gru_lm/models/{variant}/recurrent.py" for variant in VARIANTS),
}

# Runs a module as `python -m` does; then writes the names of all modules and their files to REPORT.
RUNNER = """
import json, os, runpy, sys

sys.path.insert(0, os.getcwd())
report, module, *arguments = sys.argv[1:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    loaded = {name: getattr(m, "__file__", None) for name, m in list(sys.modules.items())}
    with open(report, "w") as file:
        json.dump(loaded, file)
"""


def packages() -> list[str]:
    folders = [path.parent for path in PROJECT.glob("src/*/__init__.py")]
    return ["stages", *sorted(folder.name for folder in folders)]


def project_files(loaded: dict[str, str | None], root: Path) -> set[str]:
    """Return the files in ``loaded`` that are in the copy ``root``, relative to it."""
    root = root.resolve()
    for name, file in loaded.items():
        if name.partition(".")[0] in packages():
            assert file is not None, f"{name} has no __init__.py"
            assert Path(file).resolve().is_relative_to(root), (
                f"{name} was imported from {file}, not from beside the stage"
            )
    files = {Path(file).resolve() for file in loaded.values() if file}
    return {file.relative_to(root).as_posix() for file in files if file.is_relative_to(root)}


@pytest.fixture(scope="module")
def workspace(finished_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return finished_pipeline.copy(tmp_path_factory.mktemp("imports") / "project")


def modules(dep: str, root: Path) -> set[str]:
    """Return the Python file ``dep``, or all Python files in the folder ``dep``."""
    if not dep.startswith(("src/", "stages/")):
        return set()
    if (root / dep).is_dir():
        return {path.relative_to(root).as_posix() for path in (root / dep).rglob("*.py")}
    return {dep}


def of_validation(imported: set[str]) -> set[str]:
    """Return the files that are loaded only because of a package's settings.py."""
    packages: dict[str, set[str]] = {}
    for path in imported:
        folder, _, name = path.rpartition("/")
        packages.setdefault(folder, set()).add(name)
    return {
        f"{folder}/{name}"
        for folder, names in packages.items()
        for name in names
        if name == "settings.py" or names <= {"__init__.py", "settings.py"}
    }


@pytest.mark.parametrize("stage", STAGES)
def test_deps_equal_imports(stage: str, workspace: Pipeline, tmp_path: Path) -> None:
    recorded = workspace.lock()[stage]
    python, dash_m, module, *arguments = shlex.split(recorded["cmd"])
    assert (python, dash_m) == ("python", "-m")

    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    command = [str(tmp_path / "loaded.json"), module, *arguments]
    if stage.partition("@")[0] in WITH_TORCH:
        process = Stage(str(runner), *command, cwd=workspace.root, env=workspace.env)
        output, _ = process.communicate()
        assert process.returncode == 0, output
    else:  # a new Python, without torch
        workspace.run("python", runner, *command)
    loaded = json.loads((tmp_path / "loaded.json").read_text())

    script = module.replace(".", "/") + ".py"  # it ran as __main__
    imported = project_files(loaded, workspace.root) | {script}
    # In analysis/dvc.lock the paths start from the root as well: wdir is ``..``.
    deps = {name for dep in recorded["deps"] for name in modules(dep["path"], workspace.root)}
    missing = imported - deps - of_validation(imported)
    superfluous = deps - imported - OTHER_MODELS
    assert not missing and not superfluous, (
        f"deps of {stage}: missing {sorted(missing)}, superfluous {sorted(superfluous)}"
    )
    needs_torch, has_torch = stage.partition("@")[0] in WITH_TORCH, "torch" in loaded
    assert has_torch == needs_torch


@pytest.mark.parametrize("package", packages())
def test_packages_import_no_module(package: str, workspace: Pipeline) -> None:
    code = (
        "import sys; sys.path.insert(0, 'src'); before = set(sys.modules); "
        f"import {package}; print(*(set(sys.modules) - before))"
    )
    loaded = workspace.run("python", "-c", code).stdout.split()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {package}
    assert [name for name in loaded if name.startswith(package)] == [package]
