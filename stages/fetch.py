"""Fetch the corpus to data/raw/corpus.txt and write its checksum and size to corpus.json."""

import contextlib
import os
import signal
import sys
from pathlib import Path

from gru_lm.core.errors import UserError, say
from gru_lm.core.files import read_json, write_json
from gru_lm.core.params import load_params
from gru_lm.corpus.settings import CorpusSettings
from gru_lm.corpus.sources import fetch, provenance
from stages import run_stage

RAW = Path("data/raw")


def main() -> None:
    # Remove the temporary file after SIGTERM, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell's background jobs start with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = load_params(CorpusSettings)
    name = settings.fetch.corpus
    source = settings.corpora[name]
    earlier: dict[str, object] = {}
    with contextlib.suppress(UserError, OSError):  # then the corpus is fetched
        earlier = read_json(RAW / "corpus.json")
    fetched = fetch(
        name,
        source,
        settings.fetch,
        RAW / "corpus.txt",
        project=Path.cwd(),
        mirror=os.environ.get("GRU_LM_CORPUS_MIRROR"),
        warn=lambda line: say("fetch", f"warning: {line}", file=sys.stderr),
        earlier=earlier,
    )
    write_json(RAW / "corpus.json", provenance(name, source, fetched))
    say("fetch", f"{name}, {fetched.size} bytes, from {fetched.origin}")


if __name__ == "__main__":
    run_stage("fetch", main)
