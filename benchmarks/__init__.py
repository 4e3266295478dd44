"""Benchmarks of speed and fidelity against other implementations. Run them from the project root.

Like the stages, a benchmark imports the library from the ``src`` beside it and not from an
installed copy. README.md lists the commands.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
