"""The files in cluster/ are well formed and start the stage as torchrun and the clusters expect."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT

CLUSTER = PROJECT / "cluster"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options and max(options) < first, "Slurm ignores options after the first command"


def test_kubernetes_job_numbers_its_machines() -> None:
    service, job = documents("kubernetes.yaml")
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    arguments = dict(re.findall(r"^--([\w-]+)=(.+)$", "\n".join(container["args"]), re.MULTILINE))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(arguments["nnodes"])
    assert arguments["node-rank"] == "$(JOB_COMPLETION_INDEX)"
    # The names of an indexed job's pods in a headless service.
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert arguments["master-addr"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert service["spec"]["ports"][0]["port"] == int(arguments["master-port"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(arguments["nproc-per-node"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_skypilot_task_runs_on_all_machines() -> None:
    [task] = documents("skypilot.yaml")
    assert task["num_nodes"] > 1 and task["envs"] == {"VARIANT": "fused"}
    for name in ("NUM_NODES", "NODE_RANK", "NODE_IPS", "NUM_GPUS_PER_NODE"):
        assert f"$SKYPILOT_{name}" in task["run"]
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[part]], check=True)
