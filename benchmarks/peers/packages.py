"""Install and import d2l, the textbook's package, and flashrnn outside the project's environment.

d2l is installed into a separate folder that is on ``sys.path`` only during the import. Its
dependencies are not installed, as they pin old versions. d2l imports some packages only to draw or
to load pictures and tables. Its recurrent networks do not use them, so empty stand-ins in the
folder are enough. flashrnn (see ``flashrnn_gru.py``) has no conflicting dependencies and shares the
folder.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Final

from benchmarks.common import ROOT

FOLDER: Final = ROOT / ".bench" / "peers"
REQUIREMENTS: Final = Path(__file__).with_name("packages.txt")
PACKAGES: Final = ("d2l", "flashrnn", "einops")
D2L_VERSION: Final = "0.17.6"
STAND_INS: Final = {  # package: the names that d2l imports from it
    "IPython": ("display",),
    "PIL": ("Image",),
    "matplotlib": ("pyplot",),
    "matplotlib_inline": ("backend_inline",),
    "pandas": (),
    "torchvision": ("transforms",),
}


class PeerMissingError(Exception):
    """A peer cannot be installed, imported or run. The message says why."""


def load_d2l(folder: Path | None = None) -> ModuleType:
    """Import ``d2l.torch`` from ``folder``, by default from ``.bench/peers``.

    The default folder is installed if it is missing. Only missing stand-ins are added to a given
    ``folder``. Raises PeerMissingError if d2l is missing, cannot be installed or imported, or is
    not the version to compare with.
    """
    folder = peers_folder(folder)
    try:
        _add_stand_ins(folder)
    except OSError as error:
        raise PeerMissingError(f"the peers' folder cannot be used: {error.strerror}") from error
    module = import_from(folder, "d2l.torch")
    version = getattr(sys.modules["d2l"], "__version__", "unknown")
    if version != D2L_VERSION:
        raise PeerMissingError(f"its version is {version}, not {D2L_VERSION}")
    return module


def peers_folder(folder: Path | None = None) -> Path:
    """Return ``folder``, or ``.bench/peers`` after installing packages.txt into it.

    Raises PeerMissingError if the packages are missing and cannot be installed.
    """
    if folder is not None:
        if not (folder / "d2l" / "torch.py").is_file():
            raise PeerMissingError("the folder given with --peers does not contain d2l")
        return folder.resolve()
    try:
        if not all((FOLDER / package / "__init__.py").is_file() for package in PACKAGES):
            _install(FOLDER)
    except OSError as error:
        raise PeerMissingError(f"the peers' folder cannot be used: {error.strerror}") from error
    return FOLDER


def _install(folder: Path) -> None:
    """Install packages.txt and move the result to ``folder`` if this succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".peers-", dir=folder.parent) as name:
        fresh = Path(name) / folder.name
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
        command += ["--target", str(fresh), "--requirement", str(REQUIREMENTS)]
        print("installing d2l and flashrnn into a separate folder", flush=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise PeerMissingError("pip did not finish within 300 seconds") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            errors = [line for line in lines if line.startswith("ERROR:")] or lines
            raise PeerMissingError(f"pip could not install it: {errors[-1]}")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)


def _add_stand_ins(folder: Path) -> None:
    for package, names in STAND_INS.items():
        init = folder / package / "__init__.py"
        if not init.exists():
            init.parent.mkdir(exist_ok=True)
            lines = [
                '"""An empty stand-in: d2l imports this package, but its GRUs do not use it."""'
            ]
            lines += [f"{name} = None" for name in names]
            init.write_text("\n".join(lines) + "\n", encoding="utf-8")


def import_from(folder: Path, name: str) -> ModuleType:
    """Import module ``name`` from ``folder``.

    The stand-ins are removed from ``sys.modules``, so later imports find the real packages. Raises
    PeerMissingError if the import fails.
    """
    others = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise PeerMissingError(f"it cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(folder))
        for module in set(sys.modules) - others:
            if module.partition(".")[0] in STAND_INS:
                del sys.modules[module]
