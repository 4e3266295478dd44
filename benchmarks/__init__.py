"""Speed and fidelity against peers, run from the project's root: ``python -m benchmarks.speed``.

Like the stages, a benchmark measures the library that lies beside it, never one installed
elsewhere.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
