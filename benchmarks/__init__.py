"""Speed and fidelity compared with other implementations; run from the project's root.

Like the stages, a benchmark measures the library that lies beside it, never one installed
elsewhere. README.md lists the commands.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
