"""The texts of a corpus: which files of the project they are, and how they become one text."""

from __future__ import annotations

import codecs
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gru_lm.core.reading import decoded_pieces
from gru_lm.corpus.archives import compression, unpacked
from gru_lm.corpus.wire import SourceFailed


def project_files(project: Path, path: str) -> list[tuple[str, Path]]:
    """Return the files that ``path`` names, each with its path in ``project`` and its real path.

    ``path`` is a file, a folder with all files in it and in its subfolders, or a pattern of files
    with *, ? and [...], where ** stands for any folders. Hidden files are left out. The files of a
    folder or a pattern are sorted by the bytes of their paths.

    Raises SourceFailed if there is no such file or if one of them is outside the project.
    """
    given = project / path
    if not os.path.lexists(given) and glob.has_magic(path):
        # Path.glob would find hidden files.
        found = glob.glob(path, root_dir=project, recursive=True)  # noqa: PTH207
        names = sorted((name for name in found if not (project / name).is_dir()), key=os.fsencode)
    elif _inside(project, given).is_dir():
        names = sorted(_names_in(project, given), key=os.fsencode)
    else:
        names = [path]
    if not names:
        raise SourceFailed("it names no file")
    return [(Path(name).as_posix(), _inside(project, project / name)) for name in names]


def _names_in(project: Path, folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(project).as_posix()


def _inside(project: Path, path: Path) -> Path:
    """Return the real path of ``path``. Raises SourceFailed if it is not inside ``project``."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise SourceFailed("no such file") from None
    if not real.is_relative_to(project.resolve()):
        raise SourceFailed("it is outside the project")
    return real


class Utf8Text:
    """A text in UTF-8 in the open ``file``, made of files that can be compressed.

    ``encoding`` is theirs, and ``entry`` the section of params.yaml that sets it. Line ends become
    ``\\n``. A line end is inserted between two texts if the first does not end with one.
    ``is_converted`` says that the content is the text of a single file with other bytes.
    """

    def __init__(self, file: IO[bytes], folder: Path, encoding: str, entry: str) -> None:
        self.file, self.entry = file, entry
        self._folder, self._encoding = folder, encoding
        self._line_is_open, self.is_converted = False, False

    def add(self, name: str, source: IO[bytes]) -> None:
        """Append the texts in the file ``source``, which messages call ``name``.

        Raises SourceFailed if it is damaged (see ``unpacked``), and UserError if a text has another
        encoding (see ``decoded_pieces``).
        """
        for member, pieces in unpacked(source):
            label = f"{name}: {member}" if member else name
            starts = True
            decoded = decoded_pieces(pieces, label, f"{self.entry}.encoding", self._encoding)
            for text in filter(None, decoded):
                if starts and self._line_is_open:
                    self.file.write(b"\n")
                try:
                    self.file.write(text.encode("utf-8"))
                except UnicodeEncodeError:  # of an encoding such as utf-7
                    raise SourceFailed(f"{label} has half of a surrogate pair") from None
                starts, self._line_is_open = False, not text.endswith("\n")

    def convert(self, name: str) -> None:
        """Replace the content of the file by its text, if it is compressed or not in UTF-8.

        Raises SourceFailed and UserError as ``add`` does. The file is not to be used then.
        """
        self.is_converted = compression(self.file) is not None or not is_utf8(self._encoding)
        if not self.is_converted:
            return
        with tempfile.TemporaryFile(dir=self._folder) as source:
            self.file.seek(0)
            shutil.copyfileobj(self.file, source)
            self.file.seek(0)
            self.file.truncate()
            self._line_is_open = False
            self.add(name, source)
        if not self.file.tell():
            raise SourceFailed("it contains no text")


def is_utf8(encoding: str) -> bool:
    """Return whether ``encoding``, a name in Python, is UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
