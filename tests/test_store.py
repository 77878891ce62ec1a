"""Storing notebooks: which are chosen, that only whole runs are kept, and what is left out."""

import os
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT / "notebooks" / "pages"))
import store  # noqa: E402

sys.path.remove(str(ROOT / "notebooks" / "pages"))


def notebook(source="1", *outputs):
    """A minimal notebook with one cell, as some machine left it."""
    metadata = {
        "kernelspec": {"name": "my-env", "display_name": "mine"},
        "language_info": {"name": "python", "version": "3.11.7"},
        "widgets": {"state": {}},
    }
    cell = nbformat.v4.new_code_cell(source, outputs=[nbformat.from_dict(o) for o in outputs])
    cell.metadata = nbformat.from_dict({"execution": {"iopub.status.busy": "2026"}, "tags": ["x"]})
    return nbformat.v4.new_notebook(cells=[cell], metadata=metadata)


def tidied(*outputs):
    (cell,) = store.tidy(notebook("1", *outputs)).cells
    return cell.outputs


def test_tidy_keeps_what_a_reader_sees():
    widget = {
        "output_type": "display_data",
        "data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%"},
        "metadata": {},
    }
    result = {"output_type": "execute_result", "data": {"text/plain": "1"}, "metadata": {}}
    result["execution_count"] = 1
    found = store.tidy(notebook("1", widget, result))
    assert found.metadata == {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    (cell,) = found.cells
    assert cell.outputs == [result] and cell.metadata == {"tags": ["x"]}


def test_printed_lines_are_joined():
    out, err = ({"output_type": "stream", "name": name} for name in ("stdout", "stderr"))
    found = tidied({**out, "text": "1\n"}, {**out, "text": "2\n"}, {**err, "text": "3\n"})
    assert found == [{**out, "text": "1\n2\n"}, {**err, "text": "3\n"}]


def test_tracebacks_lose_the_machine(monkeypatch):
    root = os.path.join(os.path.expanduser("~"), "src", "minidit")
    monkeypatch.setattr(store, "ROOT", Path(root))
    red = "\x1b[31m"
    lines = {
        f"File {red}{root}/minidit/dit.py:3{red}, in f": f"File {red}minidit/dit.py:3{red}, in f",
        "File ~/src/minidit/minidit/dit.py:3, in f": "File minidit/dit.py:3, in f",
        f"File {red}{root}/.venv/lib/python3.11/site-packages/torch/x.py:1{red}": (
            f"File {red}site-packages/torch/x.py:1{red}"
        ),
        "File ~/miniconda/envs/m/lib/python3.11/ast.py:54": "File lib/python3.11/ast.py:54",
        "ValueError: 3/4 of a patch": "ValueError: 3/4 of a patch",
    }
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": list(lines)}
    (output,) = tidied(error)
    assert output.traceback == list(lines.values())


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Three notebooks in a fresh clone; one of them fails."""
    monkeypatch.setattr(store, "ROOT", tmp_path)
    sources = {"00_quickstart": "1 + 1", "01_diffusion": "1 / 0", "02_patchify": "3"}
    (tmp_path / "notebooks").mkdir()
    for name, source in sources.items():
        nbformat.write(notebook(source), tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path / "notebooks"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], ["00_quickstart", "01_diffusion", "02_patchify"]),
        (["02", "notebooks/00_quickstart.ipynb"], ["00_quickstart", "02_patchify"]),
        (["01_diffusion"], ["01_diffusion"]),
    ],
)
def test_notebooks_are_chosen_by_how_they_begin(shelf, names, chosen):
    assert [path.stem for path in store.choose(names)] == chosen


def test_unknown_notebook_is_one_sentence(shelf, capsys):
    assert store.main(["07"]) == 2
    assert "no notebook begins with '07'" in capsys.readouterr().err


def test_a_notebook_is_stored_only_if_it_ran(shelf, monkeypatch, capsys):
    checks = []
    monkeypatch.setattr(store.subprocess, "call", lambda command, cwd: checks.append(command) or 4)
    before = {path.name: path.read_bytes() for path in shelf.iterdir()}
    assert store.main(["00", "01"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err and checks == []
    after = {path.name: path.read_bytes() for path in shelf.iterdir()}
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == ["00_quickstart.ipynb"]
    (cell,) = nbformat.read(shelf / "00_quickstart.ipynb", 4).cells
    assert cell.outputs[0].data == {"text/plain": "2"} and cell.metadata == {"tags": ["x"]}
    assert store.main(["00", "02"]) == 4, "the exit code of the check is handed on"
    assert checks[0][-1] == "00_quickstart or 02_patchify"
