"""What pytest needs to know about the notebooks."""

import os

# Notebooks are compared at the scale that their stored outputs have; see `tasks.py notebooks`.
os.environ.setdefault("MINIDIT_SCALE", "smoke")


def pytest_collectstart(collector):
    """Compare source code that a notebook shows by its plain text, not by its colours."""
    if hasattr(collector, "skip_compare"):  # nbval's collector of one notebook
        collector.skip_compare += ("text/html", "text/latex")
