"""Run a command and measure its time and its peak memory.

    python -m benchmarks.peak python -m stages.prepare

Prints one line of JSON: ``seconds`` of wall time, ``peak`` and ``anonymous`` in bytes, and the exit
``status``. ``peak`` is the largest resident set (ru_maxrss). It includes the pages of files that
are mapped, such as token arrays, which the system takes back if it needs the memory.
``anonymous`` is the largest resident set without them (RssAnon of /proc, read 50 times a second;
null on other systems than Linux).

A process counts the resident set of the one that started it, so this module imports nothing large.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

INTERVAL = 0.02  # seconds between two readings


def measure(command: list[str]) -> dict[str, float | int | None]:
    """Run ``command``, with its messages on this process's stderr, and return the figures."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    anonymous = None
    while True:
        anonymous = max(filter(None, (anonymous, _anonymous(process.pid))), default=None)
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            break
        time.sleep(INTERVAL)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "anonymous": anonymous,
        "status": os.waitstatus_to_exitcode(status),
    }


def _anonymous(pid: int) -> int | None:
    """Return the anonymous memory of a process in bytes, or None if it is unknown."""
    try:
        found = re.search(r"^RssAnon:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
