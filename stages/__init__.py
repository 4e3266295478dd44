"""The pipeline's stages, one script each, run from the project's root: ``python -m stages.fetch``.

A stage uses the library that lies beside it, never one installed elsewhere: ``dvc exp run --temp``
and ``--queue`` run a copy of the tree, whose own ``src`` must be what runs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
