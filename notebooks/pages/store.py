"""Execute notebooks and store them in place, then check what was stored: all, or those named.

`python3 tasks.py notebooks 00 02_patchify` calls this.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from minidit.weights.files import replacing

ROOT = Path(__file__).resolve().parent.parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"  # alive; a stored notebook can't show it


def main(names: list[str]) -> int:
    """Execute, store and check; a notebook whose execution fails stays as it was."""
    try:
        paths = choose(names)
        for number, path in enumerate(paths, 1):
            print(f"[{number}/{len(paths)}] {path.name} ...", flush=True)
            start, notebook = time.time(), execute(path)
            with replacing(path) as file:
                file.write((nbformat.writes(tidy(notebook)) + "\n").encode())
            print(f"{path.name} stored after {time.time() - start:.0f} s", flush=True)
    except ValueError as error:
        print(f"tasks.py notebooks: {error}", file=sys.stderr)
        return 2
    except CellExecutionError as error:
        print(f"{error}\n{path.name} failed; it stays as it was", file=sys.stderr)
        return 1
    stored = " or ".join(path.stem for path in paths)
    check = ["-m", "pytest", "-q", "tests/test_notebooks.py", "-k", stored]
    return subprocess.call([sys.executable, *check], cwd=ROOT)


def choose(names: list[str]) -> list[Path]:
    """The paths of the named notebooks, or of all, in order."""
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    beginnings = [os.path.basename(name) for name in names] or [""]
    for name in beginnings:
        if not any(path.name.startswith(name) for path in paths):
            there = ", ".join(path.name for path in paths) or "none"
            raise ValueError(f"no notebook begins with '{name}'; there are: {there}")
    return [path for path in paths if path.name.startswith(tuple(beginnings))]


def execute(path: Path) -> nbformat.NotebookNode:
    """Run all cells of a notebook, in its folder."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what only the machine that ran it knows, so that two runs store the same file."""
    language = dict(notebook.metadata.get("language_info", {}))
    language.pop("version", None)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": language})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it started and ended
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            # How printed lines were cut up is a matter of timing.
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)
            for output in cell.outputs:
                if output.output_type == "error":
                    output.traceback = [without_machine(line) for line in output.traceback]
    return notebook


def without_machine(text: str) -> str:
    """Shorten the paths in a traceback to what they are on every machine."""
    for library in ("site-packages", r"lib[/\\]python3\.\d+"):
        text = re.sub(r"(?:~|\b[A-Za-z]:)?[/\\][^\s\x1b'\"]*?(" + library + r")[/\\]", r"\1/", text)
    for root in (str(ROOT), str(ROOT).replace(str(Path.home()), "~", 1)):
        text = text.replace(root + os.sep, "")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
