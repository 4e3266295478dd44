"""What a team does with the pipeline's results, run from the project's root: ``python -m tools.X``.

    browser    a headless Chromium without network, for the tests and the screenshot
    comparable whether revisions were measured on the same data
    compare    settings against each other, over their seeds
    ci_report  what a change does: metrics, curves, params, samples, stages
    gate       fail where held-out perplexity rises too far
    screenshot docs/report.png, the README's picture of reports/index.html
    sweep      queue a grid of experiments, run it, list what failed
    vega       the scripts that let the pages of ``dvc plots`` open without a network

Compare, ci_report and gate read what git and DVC's cache hold; sweep calls DVC. Like the stages, a
tool uses the library that lies beside it, never one installed elsewhere.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
