"""The benchmark of large texts: its text, and its figures for a small one."""

from __future__ import annotations

import zlib
from itertools import islice
from pathlib import Path

from benchmarks import corpus_size, peak


def test_text_is_varied_and_repeatable(tmp_path: Path) -> None:
    corpus_size.write_text(tmp_path / "text", 300_000)
    text = (tmp_path / "text").read_bytes()
    assert len(text) == 300_000
    assert len(zlib.compress(text)) > 0.3 * len(text)
    words = text.decode("ascii").lower().split()
    assert 8000 < len(set(words)) < len(words) / 2
    first, second = islice(corpus_size.text_pieces(0), 2)
    assert first.startswith(text)
    assert first[:200] not in second


def test_peak_tells_a_process_memory_and_status() -> None:
    code = "import mmap; kept = b'x' * 60_000_000; raise SystemExit(3)"
    found = peak.measure([corpus_size.sys.executable, "-c", code])
    assert found["status"] == 3
    assert found["peak"] >= 60_000_000


def test_table_has_a_column_per_size() -> None:
    figures = {"seconds": 1.25, "peak": 300 << 20, "anonymous": 100 << 20}
    sizes = {"100": {"fetch": figures}, "1": dict.fromkeys(corpus_size.STAGES, figures)}
    head, _, fetch, prepare, *_ = corpus_size.table(sizes).splitlines()
    assert head == "| stage | 1 MiB | 100 MiB |"
    assert fetch == "| fetch | 1.2 s, 300 MiB (100) | 1.2 s, 300 MiB (100) |"
    assert prepare == "| prepare | 1.2 s, 300 MiB (100) | not measured |"
