"""The configuration of CI and other tools is valid and matches the project.

These tests check what is possible without running GitHub's and GitLab's CI.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
GITLAB = PROJECT / ".gitlab-ci.yml"
DEVCONTAINERS = sorted((PROJECT / ".devcontainer").glob("*/devcontainer.json"))

# Keys of .gitlab-ci.yml that are not jobs.
GITLAB_KEYWORDS = {"default", "include", "spec", "stages", "variables", "workflow"}


def load(path: Path) -> dict[str, Any]:
    """Load YAML with strings only, as YAML 1.1 would convert the key ``on`` to a boolean."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def workflow_jobs() -> list[Any]:
    return [
        pytest.param(job, id=f"{path.stem}-{name}")
        for path in WORKFLOWS
        for name, job in load(path)["jobs"].items()
    ]


def gitlab_jobs() -> dict[str, Any]:
    document = load(GITLAB)
    return {
        name: job
        for name, job in document.items()
        if name not in GITLAB_KEYWORDS and not name.startswith(".")
    }


def scripts(path: Path) -> str:
    """Return all shell commands of a CI file."""
    if path == GITLAB:
        return "\n".join(line for job in gitlab_jobs().values() for line in job["script"])
    steps = [step for job in load(path)["jobs"].values() for step in job["steps"]]
    return "\n".join(step.get("run", "") for step in steps)


def check_schema(path: Path, schema: str, *options: str) -> str:
    """Return check-jsonschema's report on the file, or "" if it is valid."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *options]
    result = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_ci_files_exist():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "gpu.yml"]
    assert [path.parent.name for path in DEVCONTAINERS] == ["cpu", "gpu"]
    assert set(gitlab_jobs()) == {"test", "pipeline", "comment", "gate"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_github_workflows_match_schema(path: Path):
    assert check_schema(path, "vendor.github-workflows") == ""


def test_gitlab_ci_matches_schema():
    problems = check_schema(GITLAB, "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    assert problems == ""


def test_citation_matches_schema():
    problems = check_schema(
        PROJECT / "CITATION.cff", "vendor.citation-file-format", "--force-filetype", "yaml"
    )
    assert problems == ""


def test_schemas_refuse_invalid_files(tmp_path: Path):
    broken = tmp_path / "broken.yml"
    broken.write_text("on: push\njobs:\n  a:\n    steps: []\n", encoding="utf-8")  # no runs-on
    assert "broken.yml" in check_schema(broken, "vendor.github-workflows")


def test_citation_has_project_version():
    version = re.search(
        r'^version = "(.+)"$', (PROJECT / "pyproject.toml").read_text("utf-8"), re.M
    )
    assert version and load(PROJECT / "CITATION.cff")["version"] == version[1]
    assert f"## [{version[1]}]" in (PROJECT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("path", DEVCONTAINERS, ids=lambda path: path.parent.name)
def test_devcontainer_creates_environment(path: Path):
    container = json.loads(path.read_text(encoding="utf-8"))
    assert container["image"].startswith("mcr.microsoft.com/devcontainers/python:")
    assert container["postCreateCommand"] == "make setup"
    assert "iterative.dvc" in container["customizations"]["vscode"]["extensions"]
    assert ("--gpus=all" in container.get("runArgs", [])) == (path.parent.name == "gpu")


def test_devcontainers_differ_in_gpu_only():
    cpu, gpu = (json.loads(path.read_text(encoding="utf-8")) for path in DEVCONTAINERS)
    for key in ("runArgs", "hostRequirements", "name"):
        cpu.pop(key, None)
        gpu.pop(key, None)
    assert cpu == gpu


@pytest.mark.parametrize("job", workflow_jobs())
def test_github_jobs_have_time_limits(job: dict[str, Any]):
    assert 0 < int(job["timeout-minutes"]) <= 120


def test_gitlab_jobs_have_time_limits():
    assert all("timeout" in job for job in gitlab_jobs().values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_read_only(path: Path):
    assert load(path)["permissions"] == {"contents": "read"}


def test_only_comment_job_may_write():
    writers = {
        name: job
        for path in WORKFLOWS
        for name, job in load(path)["jobs"].items()
        if "write" in job.get("permissions", {}).values()
    }
    assert list(writers) == ["comment"]
    comment = writers["comment"]
    assert comment["permissions"] == {"contents": "read", "pull-requests": "write"}
    commands = "\n".join(step.get("run", "") for step in comment["steps"])
    assert not re.search(r"\b(make|python|pip|dvc|pytest)\b", commands)
    # Tokens of forks cannot write, so the job would fail without this.
    assert "head.repo.full_name == github.repository" in comment["if"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_pull_request_code_has_no_extra_rights(path: Path):
    assert not {"pull_request_target", "workflow_run"} & set(load(path)["on"])


def test_only_pull_requests_cancel_older_runs():
    concurrency = load(PROJECT / ".github/workflows/ci.yml")["concurrency"]
    assert "github.ref" in concurrency["group"]
    assert concurrency["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"


def test_self_hosted_runner_is_opt_in():
    workflow = load(PROJECT / ".github/workflows/gpu.yml")
    assert set(workflow["on"]) == {"schedule", "workflow_dispatch"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == ["self-hosted", "gpu"]
        assert job["if"] == "vars.GPU_RUNNER == 'true'"


@pytest.mark.parametrize("job", workflow_jobs())
def test_actions_are_pinned_and_checkouts_drop_token(job: dict[str, Any]):
    for step in job["steps"]:
        if "uses" not in step:
            continue
        action, _, version = step["uses"].partition("@")
        assert re.fullmatch(r"v\d+(\.\d+){0,2}|[0-9a-f]{40}", version), step["uses"]
        if action == "actions/checkout":
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize("job", workflow_jobs())
def test_shell_commands_contain_no_expression(job: dict[str, Any]):
    """A branch name is untrusted input and must be passed in an environment variable."""
    assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]


@pytest.mark.parametrize("path", [*WORKFLOWS, GITLAB], ids=lambda path: path.name)
def test_called_commands_exist(path: Path):
    commands = scripts(path)
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = {
        target
        for line in re.findall(r"^([\w -]+):(?!=)", makefile, re.M)
        for target in line.split()
    }
    called = set(re.findall(r"^\s*make ([\w-]+)", commands, re.M))
    assert called and called <= targets, f"no such target: {called - targets}"

    for module in re.findall(r"\bpython -m ([\w.]+)", commands):
        file = PROJECT / (module.replace(".", "/") + ".py")
        assert file.is_file(), f"{path.name} runs {module}, and there is no such module"


@pytest.mark.parametrize(
    "path", [PROJECT / ".github/workflows/ci.yml", GITLAB], ids=lambda path: path.name
)
def test_report_precedes_gate(path: Path):
    lines = [line.strip() for line in scripts(path).splitlines()]
    order = ["make setup", "dvc checkout", "dvc repro -P", "make ci-report", "python -m tools.gate"]
    positions = [next(i for i, s in enumerate(lines) if s.startswith(part)) for part in order]
    assert positions == sorted(positions)


def test_failed_gate_is_commented():
    jobs = load(PROJECT / ".github/workflows/ci.yml")["jobs"]
    assert "tools.gate" in jobs["pipeline"]["steps"][-1]["run"]
    assert jobs["comment"]["if"].startswith("!cancelled()")
    assert "needs.pipeline.outputs.report == 'success'" in jobs["comment"]["if"]


def test_dvc_remote_is_used_only_if_set():
    steps = load(PROJECT / ".github/workflows/ci.yml")["jobs"]["pipeline"]["steps"]
    remote = [s for s in steps if re.search(r"dvc (remote|pull|push)", s.get("run", ""))]
    assert len(remote) == 3
    assert all("vars.DVC_REMOTE_URL != ''" in step["if"] for step in remote)
    pushes = [step for step in remote if "dvc push" in step["run"]]
    assert [step["if"].startswith("github.event_name == 'push'") for step in pushes] == [True]


def step_of(part: str) -> str:
    """Return the commands of the one step in ci.yml's pipeline that contain ``part``."""
    steps = load(PROJECT / ".github/workflows/ci.yml")["jobs"]["pipeline"]["steps"]
    (found,) = [step["run"] for step in steps if part in step.get("run", "")]
    return found


def line_of(part: str) -> str:
    """Return the one entry of the script of GitLab's pipeline that contains ``part``."""
    (found,) = [line for line in gitlab_jobs()["pipeline"]["script"] if part in line]
    return found


def shell(script: str, folder: Path, **env: str) -> str:
    """Run ``script`` as a CI step, in bash with exit on error, and return its output."""
    command = ["bash", "-e", "-c", script]
    person = {"GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@example.org"}
    person |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in person.items()}
    result = subprocess.run(
        command, cwd=folder, env=os.environ | person | env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Make a clone of a repository with the branches main and release and both lock files."""
    origin = tmp_path / "origin"
    origin.mkdir()
    shell(
        "git init -q -b main; mkdir analysis; echo committed | tee dvc.lock > analysis/dvc.lock;"
        "git add .; git commit -q -m one; git commit -q --allow-empty -m two; git branch release",
        origin,
    )
    shell("git clone -q origin clone", tmp_path)
    return tmp_path / "clone"


@pytest.mark.parametrize(
    ("target", "before", "base"),
    [
        ("release", "", "origin/release"),
        ("main", "", "origin/main"),
        ("", "HEAD~1", "HEAD~1"),
        ("", "0" * 40, "HEAD"),  # a new branch
    ],
)
def test_github_compares_with_target_branch(target: str, before: str, base: str, clone: Path):
    file = clone / "env"
    shell(step_of("^{commit}"), clone, TARGET=target, BEFORE=before, GITHUB_ENV=str(file))
    assert file.read_text("utf-8") == f"BASE={base}\n"


@pytest.mark.parametrize(
    ("source", "before", "base"),
    [
        ("merge_request_event", "0" * 40, "origin/release"),
        ("push", "HEAD~1", "HEAD~1"),
        ("push", "0" * 40, "HEAD"),
    ],
)
def test_gitlab_compares_with_target_branch(source: str, before: str, base: str, clone: Path):
    shell("git update-ref -d refs/remotes/origin/release", clone)  # GitLab fetches one branch
    printed = shell(
        line_of("^{commit}") + "\necho base=$BASE",
        clone,
        CI_PIPELINE_SOURCE=source,
        CI_COMMIT_BEFORE_SHA=before,
        CI_MERGE_REQUEST_TARGET_BRANCH_NAME="release",
        CI_DEFAULT_BRANCH="main",
    )
    assert printed.splitlines()[-1] == f"base={base}"


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_committed_outputs_are_pushed(ci: str, clone: Path):
    """Files that the runner computed again, with rounding differences, are not pushed."""
    fake = clone.parent / "bin/dvc"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\ntest "$*" = push && cat dvc.lock analysis/dvc.lock > ../pushed\n')
    fake.chmod(0o755)
    for path in ("dvc.lock", "analysis/dvc.lock"):
        (clone / path).write_text("computed\n", "utf-8")
    shell(
        step_of("dvc push") if ci == "github" else line_of("dvc push"),
        clone,
        PATH=f"{fake.parent}{os.pathsep}{os.environ['PATH']}",
        RUNNER_TEMP=str(clone.parent),
        DVC_REMOTE_URL="s3://bucket",
        CI_COMMIT_BRANCH="main",
        CI_DEFAULT_BRANCH="main",
    )
    assert (clone.parent / "pushed").read_text("utf-8") == "committed\n" * 2
    if ci == "github":  # the gate follows and uses the results of the runner
        assert (clone / "analysis/dvc.lock").read_text("utf-8") == "computed\n"
        assert (clone / "dvc.lock").read_text("utf-8") == "computed\n"


@pytest.mark.parametrize(
    ("config", "name"),
    [("", "gru-lm"), ("[user]\nemail = a@example.org\n", ""), ("[[", "")],
    ids=["none", "an identity", "a file that git refuses"],
)
def test_make_sets_git_identity_only_if_missing(config: str, name: str, tmp_path: Path):
    (tmp_path / "config").write_text(config, "utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["make", "--no-print-directory", "-f", str(PROJECT / "Makefile")]
    result = subprocess.run(
        [*command, "--eval", "name: ; @echo name=$$GIT_AUTHOR_NAME", "name"],
        cwd=tmp_path,
        env=kept | {"GIT_CONFIG_GLOBAL": str(tmp_path / "config"), "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == f"name={name}\n"
    assert ("bad config" in result.stderr) == (config == "[[")


def test_hooks_use_project_tools():
    config = load(PROJECT / ".pre-commit-config.yaml")
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}  # no second list of versions
    assert {hook["language"] for hook in hooks} == {"system"}
    assert all(".venv/bin/" in hook["entry"] for hook in hooks)

    pinned = re.findall(r"^([\w.-]+)==", (PROJECT / "requirements.txt").read_text("utf-8"), re.M)
    tools = {tool for hook in hooks for tool in re.findall(r"\.venv/bin/([\w-]+)", hook["entry"])}
    assert tools == {"ruff", "check-jsonschema", "dvc"}
    assert tools <= set(pinned)

    stages = {stage for hook in hooks for stage in hook.get("stages", config["default_stages"])}
    assert stages == set(config["default_install_hook_types"])
