"""Tools for the results of the pipelines. Run them from the project root: ``python -m tools.X``.

    browser    start a headless Chromium without network, for the tests and the screenshot
    comparable check that revisions were measured on the same data
    compare    compare settings over their seeds
    ci_report  report how a change affects metrics, curves, params, samples and stages
    gate       fail if held-out perplexity rises too far
    markdown   write tables and inline code for compare and ci_report
    screenshot make docs/report.png, the README's picture of reports/index.html
    sweep      queue a grid of experiments, run it and list failures
    vega       make the pages of ``dvc plots`` work without a network

compare, ci_report and gate read git and DVC's cache. sweep calls DVC. Like the stages, a tool
imports the library from the ``src`` beside it and not from an installed copy.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
