"""What pytest needs to know about the notebooks."""

import os

# Workers share the processor, and each has a notebook's kernel beside it: one thread for each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collectstart(collector):
    """Compare source code that a notebook shows by its plain text, not by its colours."""
    if hasattr(collector, "skip_compare"):  # nbval's collector of one notebook
        collector.skip_compare += ("text/html", "text/latex")
