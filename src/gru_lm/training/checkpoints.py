"""The files of a training's checkpoints.

A run has a folder of its own. Its name has a hash of everything that determines the result, so the
checkpoint of another experiment is never used. The length of the run is not part of the hash,
because a run can be extended. If the steps depend on the length, it is the end of the name::

    .checkpoints/<name>-<hash>[-<length>]/000150-<sha256, first 16 digits>.safetensors
    .checkpoints/<name>-<hash>[-<length>]/finished-004400-<sha256, first 16 digits>.safetensors

A file's name has the number of steps and the checksum of its content. Files are written atomically,
and the one before the newest is kept as well. When a run is finished, only its last state is kept,
from which a longer run can go on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor

from gru_lm.core.files import write_bytes
from gru_lm.core.reading import ANY, opened, read_bytes
from gru_lm.models.base import tensors_in

KEPT = 2  # the newest, and the one before it in case the newest is damaged
KEPT_RUNS = 3  # folders per name that are kept when a run is finished, the newest
NAME = re.compile(r"(finished-)?([0-9]{6,})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training run, in a ``folder`` of their own."""

    folder: Path

    @classmethod
    def of(
        cls, root: Path, name: str, determinants: Mapping[str, Any], length: float | None = None
    ) -> Checkpoints:
        """Return those of the run that ``determinants``, a JSON tree, determine.

        ``length`` is that of the run if its steps depend on it, else None.
        """
        document = json.dumps(determinants, sort_keys=True)
        key = hashlib.sha256(document.encode()).hexdigest()[:16]
        return cls(root / (f"{name}-{key}" + ("" if length is None else f"-{length:g}")))

    def save(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state after ``steps`` steps, and delete old ones."""
        written = self._write("", steps, tensors)
        # Files of later steps are damaged, or of a longer run. They must not displace this one.
        earlier = [path for path in self.unfinished() if steps_of(path) <= steps]
        for old in earlier[KEPT:]:
            if old != written:
                with suppress(OSError):  # another run was faster, or it is a folder
                    old.unlink()

    def finish(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` as the last state of the finished run, and nothing else of it.

        Of all runs of the same name, only the newest ``KEPT_RUNS`` keep their folders.
        """
        written = self._write("finished-", steps, tensors)
        for path in self.folder.iterdir():
            if path != written and NAME.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()
        name = re.escape(re.sub(r"-[0-9a-f]{16}(-[^-]*)?$", "", self.folder.name))
        pattern = re.compile(rf"{name}-[0-9a-f]{{16}}(-.*)?")
        folders = [path for path in self.folder.parent.iterdir() if pattern.fullmatch(path.name)]
        folders.sort(key=lambda path: (path == self.folder, path.stat().st_mtime), reverse=True)
        for path in folders[KEPT_RUNS:]:
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Delete all of this run's checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def unfinished(self) -> list[Path]:
        """Return the files of an unfinished run, the newest first."""
        return list(self._files(finished=False))

    def finished(self) -> list[Path]:
        """Return the files of a finished run, the newest first."""
        return list(self._files(finished=True))

    def of_other_lengths(self) -> bool:
        """Return whether the same run of another length has a checkpoint."""
        start = re.sub(r"-[^-]*$", "", self.folder.name)
        others = self.folder.parent.glob(f"{start}-*")
        return any(path != self.folder and any(path.iterdir()) for path in others if path.is_dir())

    def _write(self, kind: str, steps: int, tensors: Mapping[str, Tensor]) -> Path:
        data = to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(data).hexdigest()[:16]
        path = self.folder / f"{kind}{steps:06d}-{digest}.safetensors"
        write_bytes(path, data)
        return path

    def _files(self, finished: bool) -> Iterator[Path]:
        found = list(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in sorted(
            (path for path in found if NAME.fullmatch(path.name)), key=steps_of, reverse=True
        ):
            if path.name.startswith("finished-") == finished:
                yield path


def steps_of(path: Path) -> int:
    """Return the number of steps in the name of a checkpoint."""
    found = NAME.fullmatch(path.name)
    assert found is not None
    return int(found[2])


def read(path: Path, limit: int) -> dict[str, Tensor]:
    """Return the tensors in the checkpoint ``path``, of at most ``limit`` bytes.

    Raises ValueError or UnusableFile if it is damaged or too large.
    """
    data = read_bytes(path, limit)
    found = NAME.fullmatch(path.name)
    if not found or hashlib.sha256(data).hexdigest()[:16] != found[3]:
        raise ValueError("its checksum is not the one in its name")
    return tensors_in(data)


def fingerprint(*paths: Path) -> str:
    """Return the SHA-256 over the bytes of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with opened(path, ANY) as file:
            of_file = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # works
            digest.update(of_file.digest())
    return digest.hexdigest()
