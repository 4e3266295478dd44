"""Small git repositories with results like those of the pipelines, for the tests of the tools."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.image import imread

from tools.revisions import CACHE

SAMPLE = "greedy\n  time traveller went on\n  traveller {}\n\ntemperature 0.5\n  time goes by \n"
SOURCE = "src/model.py"


@dataclass(frozen=True)
class Repository:
    """A git repository with results like those of the pipelines."""

    root: Path

    @classmethod
    def new(cls, root: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
        """Make an empty repository and run the test in it."""
        root.mkdir()
        repository = cls(root)
        repository.git("init", "--quiet", "--initial-branch=main")
        repository.write(".gitignore", "/metrics/timing\n/.dvc/cache\n")
        monkeypatch.chdir(root)
        return repository

    def git(self, *arguments: str) -> str:
        person = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        result = subprocess.run(
            ["git", *person, *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.strip()

    def write(self, path: str, content: Any) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith((".yaml", ".lock")):
            content = yaml.safe_dump(content, sort_keys=False)
        elif path.endswith(".json"):
            content = json.dumps(content)
        file.write_text(content, encoding="utf-8")

    def results(
        self,
        scores: Mapping[str, tuple[float, float]],
        params: Mapping[str, Any] | None = None,
        code: str = "1",
        data: str = "1",
    ) -> None:
        """Write each variant's (val, test) perplexity and the nested ``params``.

        The hash of the prepared data is made from ``data``.
        """
        params = {"variants": list(scores), **(params or {"train": {"lr": 1.0, "seed": 0}})}
        self.write("params.yaml", params)
        source = f"CODE = {code}\n"
        self.write(SOURCE, source)
        prepared = {"path": "data/prepared", "hash": "md5", "md5": f"{md5(data)}.dir"}
        stages: dict[str, Any] = {
            "prepare": {
                "cmd": "prepare",
                "params": {"params.yaml": {"prepare": params.get("prepare", {"tokens": "char"})}},
                "outs": [prepared],
            }
        }
        for name, (val, test) in scores.items():
            splits = {"train": 1.5, "val": val, "test": test}
            self.write(
                f"metrics/evaluate/{name}.json",
                {split: {"perplexity": value, "tokens": 99} for split, value in splits.items()},
            )
            self.write(f"metrics/{name}.json", {"val_perplexity": val, "test_perplexity": test})
            self.write(f"metrics/train/{name}.json", {"perplexity": val / 10, "epochs": 3})
            speed = {"tokens_per_second": 1000 * val, "seconds": val, "device": "CPU, 2 threads"}
            timing = f"metrics/timing/{name}.json"
            self.write(timing, speed)
            rows = "".join(f"{epoch}\t{val / epoch}\n" for epoch in (1, 2, 3))
            self.write(f"plots/train/{name}.tsv", f"step\tperplexity\n{rows}")
            self.write(f"samples/{name}.txt", SAMPLE.format(val))
            model = params.get("model", {})
            read = {"train": params.get("train", {"lr": 1.0})}
            read |= {f"model.{key}": model[key] for key in (name, "hidden_size") if key in model}
            dep = {"path": SOURCE, "hash": "md5", "md5": md5(source)}
            stages[f"train@{name}"] = {
                "cmd": f"train {name}",
                "deps": [dep, prepared],
                "params": {"params.yaml": read},
                "outs": [{"path": f"training/{name}", "md5": f"{md5(str(val))}.dir"}],
            }
            stages[f"evaluate@{name}"] = {
                "cmd": f"evaluate {name}",
                "deps": [prepared, {"path": f"training/{name}", "md5": f"{md5(str(val))}.dir"}],
                "outs": [
                    {"path": f"metrics/evaluate/{name}.json", "md5": str(val)},
                    {"path": timing, "md5": self.cache(timing)},
                ],
            }
        stages["fetch"] = {"cmd": "fetch", "outs": [{"path": "raw.txt", "md5": "0"}]}
        self.write("dvc.lock", {"schema": "2.0", "stages": stages})

    def seeds(self, val: Mapping[str, Sequence[float]], **changes: Any) -> None:
        """Write results of each variant with seed 0, and with seeds 1, 2, … as replicates.

        ``changes`` are passed to ``results``. The replicates belong to the same training.
        """
        most = max(map(len, val.values()))
        params = {
            "train": {"lr": 1.0, "seed": 0, "epochs": 3},
            "replicate": {"seeds": list(range(1, most))},
        } | changes.pop("params", {})
        self.results(
            {name: (values[0], 2 * values[0]) for name, values in val.items()}, params, **changes
        )
        lock = yaml.safe_load((self.root / "dvc.lock").read_text("utf-8"))["stages"]
        stages = {}
        for name, values in val.items():
            train = lock[f"train@{name}"]
            read = {f"train.{key}": value for key, value in params["train"].items()}
            read.pop("train.seed")
            for seed, value in enumerate(values[1:], start=1):
                path = f"analysis/replicate/{name}-{seed}.json"
                self.write(path, {"seed": seed, "scores": {"val": {"perplexity": value}}})
                stages[f"replicate@{name}-{seed}"] = {
                    "cmd": f"replicate {name} {seed}",
                    "deps": train["deps"],
                    "params": {"params.yaml": read},
                    "outs": [{"path": path, "md5": str(value)}],
                }
        self.write("analysis/dvc.lock", {"schema": "2.0", "stages": stages})

    def corpus(self, name: str) -> None:
        """Record ``name`` as the corpus of the results."""
        self.write("data/raw/corpus.json", {"corpus": name, "sha256": md5(name), "bytes": 9})

    def cache(self, path: str) -> str:
        """Add a file to DVC's cache and return its MD5."""
        text = (self.root / path).read_text("utf-8")
        digest = md5(text)
        cached = self.root / CACHE / digest[:2] / digest[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(text, "utf-8")
        return digest

    def commit(self, message: str = "A commit") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str) -> None:
        """Save the working tree as a DVC experiment based on HEAD, and restore HEAD."""
        start = self.git("rev-parse", "HEAD")
        commit = self.commit(name)
        self.git("update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", commit)
        self.git("reset", "--quiet", "--hard", start)


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def size_of_png(data: bytes) -> tuple[int, int]:
    """Return width and height of the decoded picture."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(BytesIO(data), format="png")
    assert pixels.min() < 0.5 < pixels.max(), "an empty picture"
    return pixels.shape[1], pixels.shape[0]
