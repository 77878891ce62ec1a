"""What running a notebook cannot tell: nbval passes a cell that never ran, and a blank picture.

`faults` reads a stored notebook and says, in sentences, what is wrong with it. Below it, a sound
made-up notebook is spoiled in every way that the rules know, to see that each of them bites.
"""

import ast
import base64
import copy
import io
import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

MOST_BYTES = 2_000_000
LONGEST_CELL, LONGEST_MEDIAN = 25, 6  # lines of code; the aim is about twenty, and under six
IGNORING = {"nbval-ignore-output", "nbval-skip"}
WIDGET = "application/vnd.jupyter.widget-view+json"

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MACHINE_PATH = re.compile(
    r"(?<![\w.:/<~-])/(?:[A-Za-z_][\w.-]*/)+"  # /home/…, but neither a/b/c nor https://…
    r"|(?<!\w)~[/\\]\w"
    r"|\b[A-Za-z]:[\\/][\w. -]+[\\/]"
)


# --- the rules ------------------------------------------------------------------------------------


def faults(path):
    """Return a sentence on each thing that is wrong with a stored notebook."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises many kinds
        return [f"is no valid notebook: {str(error).splitlines()[0]}"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [*of_the_whole(path, notebook), *of_the_cells_together(code)]
    for number, cell in enumerate(code, 1):
        rules = (of_the_source, of_the_error, of_the_outputs, of_the_pictures)
        found += [f"code cell {number} {fault}" for rule in rules for fault in rule(cell)]
    return found


def of_the_whole(path, notebook):
    """The file, its name, its title and its metadata."""
    if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name):
        yield f"is called {path.name}, not like 02_patchify.ipynb"
    if path.stat().st_size >= MOST_BYTES:
        yield f"has {path.stat().st_size / 1e6:.1f} MB; the most is {MOST_BYTES / 1e6:.0f}"
    first = notebook.cells[0] if notebook.cells else {"cell_type": "", "source": ""}
    title = first["source"].strip().split("\n")[0]
    if first["cell_type"] != "markdown" or not re.fullmatch(r"# .*\?", title.strip()):
        yield f"has no question as its title, but {title!r}"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"was stored with the kernel {kernel!r}, not 'python3'"
    if "widgets" in notebook.metadata:
        yield "holds the state of widgets"


def of_the_cells_together(code):
    """Execution order, how many cells are compared, and how long they are."""
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"was not executed once from top to bottom: execution counts {counts}"
    ignored = sum(is_ignored(cell) for cell in code)
    if ignored > len(code) // 3:
        yield f"compares too little: {ignored} of {len(code)} code cells ignore their output"
    lengths = [len(cell.source.splitlines()) for cell in code] or [0]
    if statistics.median(lengths) > LONGEST_MEDIAN:
        yield f"has code cells of {statistics.median(lengths):g} lines in the median"


def is_ignored(cell):
    """Tell whether nbval leaves a cell's output uncompared, by its tags or by a comment."""
    marked = re.search(r"^\s*#+\s*NBVAL_(IGNORE_OUTPUT|SKIP)\s*$", cell.source, re.MULTILINE)
    return bool(IGNORING & set(cell.metadata.get("tags", [])) or marked)


def of_the_source(cell):
    """What is typed into one cell."""
    length = len(cell.source.splitlines())
    if not cell.source.strip():
        yield "is empty"
    if length > LONGEST_CELL:
        yield f"has {length} lines; the most is {LONGEST_CELL}"
    for match in MACHINE_PATH.findall(cell.source):
        yield f"names a path of one machine: {match}"
    for name in classes(cell.source).items() & PACKAGE_CLASSES.items():
        yield f"is a copy of the package's class {name[0]}: import it"


def classes(source):
    """Return each class in some source with its code, layout, comments and docstring left out."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with a magic
        return {}
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            found[node.name] = "\n".join(map(ast.dump, body))
    return found


PACKAGE_CLASSES = {
    name: body
    for path in sorted((ROOT / "minidit").rglob("*.py"))
    for name, body in classes(path.read_text(encoding="utf-8")).items()
}


def of_the_error(cell):
    """An error is stored where one is announced, and nowhere else."""
    errors = [output.ename for output in cell.outputs if output.output_type == "error"]
    announced = "raises-exception" in cell.metadata.get("tags", [])
    if errors and not announced:
        yield f"stored the error {errors[0]} without the tag raises-exception"
    if announced and not errors:
        yield "has the tag raises-exception, but stored no error"


def of_the_outputs(cell):
    """What one cell stored: nothing that differs from machine to machine."""
    for output in cell.outputs:
        if output.get("name") == "stderr":
            yield f"wrote to stderr: {output.text.strip()[:60]!r}"
        if WIDGET in output.get("data", {}):
            yield "stored a live widget, which shows nothing without its state"
        text = COLOUR.sub("", "\n".join(texts(output)))
        if address := ADDRESS.search(text):
            yield f"stored an address in memory: {address[0]}"
        if path := MACHINE_PATH.search(text):
            yield f"stored a path of one machine: {path[0]}"


def texts(output):
    """Yield every text in an output."""
    if output.output_type == "stream":
        yield output.text
    elif output.output_type == "error":
        yield from (output.ename, output.evalue, *output.traceback)
    else:
        yield from (str(data) for kind, data in output.data.items() if kind.startswith("text/"))


def of_the_pictures(cell):
    """A figure that was drawn after its show, or not at all, is one colour all over."""
    for output in cell.outputs:
        if encoded := output.get("data", {}).get("image/png"):
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
                # on grey, so that what is see-through counts as one colour, too
                ground = Image.new("RGBA", picture.size, "grey")
                ground.alpha_composite(picture.convert("RGBA"))
            if all(low == high for low, high in ground.getextrema()):
                yield "stored a blank picture"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    found = faults(path)
    assert not found, f"{path.name}\n  " + "\n  ".join(found)


# --- the rules themselves -------------------------------------------------------------------------


def png(*colours):
    """A picture one pixel high, as a notebook stores it."""
    picture = Image.new("RGBA", (len(colours), 1))
    picture.putdata(colours)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


BLACK, WHITE, CLEAR = (0, 0, 0, 255), (255, 255, 255, 255), (0, 0, 0, 0)


def markdown(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source, *outputs, tags=()):
    metadata = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code",
        "execution_count": None,  # numbered by `sound`
        "metadata": metadata,
        "outputs": list(outputs),
        "source": source,
    }


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    data = {kind.replace("_", "/"): value for kind, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


def error(*traceback):
    name, value = "NotImplementedError", "exercise 1"
    return {"output_type": "error", "ename": name, "evalue": value, "traceback": list(traceback)}


def sound():
    """A notebook that no rule objects to, though it comes near to several."""
    cells = [
        markdown("# 02 · How does an image become tokens?\n\nSee [here](/a/b/c)."),
        code(
            "x = 1\nprint(x / 2 / 3)", stream("a/b/c S/2 4/8/16 https://arxiv.org/abs/2212.09748\n")
        ),
        code("plot(x)", shown(text_plain="<Figure 0x1f>", image_png=png(BLACK, WHITE))),
        code("raise NotImplementedError", error("Cell In[3]", "E"), tags=["raises-exception"]),
        code("%time train()", tags=["nbval-ignore-output"]),
    ]
    for number, cell in enumerate(cells[1:], 1):
        cell["execution_count"] = number
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def store(folder, notebook, name="02_patchify.ipynb"):
    path = folder / name
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def test_a_sound_notebook_has_no_fault(tmp_path):
    assert faults(store(tmp_path, sound())) == []


def spoil_output(output):
    """Return a spoiler that adds an output to the first code cell."""
    return lambda notebook: notebook["cells"][1]["outputs"].append(output)


def spoil_cell(number, **changes):
    """Return a spoiler that changes a cell; 0 is the title."""
    return lambda notebook: notebook["cells"][number].update(copy.deepcopy(changes))


def spoil_metadata(**changes):
    return lambda notebook: notebook["metadata"].update(changes)


IGNORED = {"tags": ["nbval-ignore-output"]}

SPOILERS = {
    "has no question as its title": spoil_cell(0, source="# Patches\n\nWhat is a patch?"),
    "but '## Why?'": spoil_cell(0, source="## Why?"),
    "execution counts [1, 2, 3, None]": spoil_cell(4, execution_count=None),
    "execution counts [1, 2, 7, 4]": spoil_cell(3, execution_count=7),
    "the kernel 'my-env'": spoil_metadata(kernelspec={"name": "my-env", "display_name": "mine"}),
    "the kernel None": lambda notebook: notebook["metadata"].pop("kernelspec"),
    "the state of widgets": spoil_metadata(widgets={"application/x": {}}),
    "2 of 4 code cells ignore": spoil_cell(1, metadata=IGNORED),
    "2 of 4 code cells ignore their": spoil_cell(1, source="# NBVAL_IGNORE_OUTPUT\nx = 1"),
    "2 of 4 code cells": spoil_cell(1, metadata={"tags": ["nbval-skip"]}),
    "code cell 1 is empty": spoil_cell(1, source=" \n"),
    "code cell 1 has 26 lines": spoil_cell(1, source="\n".join(["x = 1"] * 26)),
    "of 7.5 lines in the median": lambda notebook: [
        spoil_cell(number, source="\n".join(["x = 1"] * 14))(notebook) for number in (1, 2)
    ],
    "names a path of one machine: /home/ada/": spoil_cell(1, source="open('/home/ada/x.npz')"),
    "without the tag raises-exception": spoil_output(error()),
    "but stored no error": spoil_cell(3, outputs=[]),
    "code cell 1 wrote to stderr": spoil_output(stream("UserWarning: slow\n", "stderr")),
    "a live widget": spoil_output(
        {"output_type": "display_data", "metadata": {}, "data": {WIDGET: {"model_id": "1"}}}
    ),
    "memory: 0x7f2e41cd30b0": spoil_output(shown(text_plain="<f at 0x7f2e41cd30b0>")),
    "stored a path of one machine: /usr/lib/": spoil_output(stream("in /usr/lib/x.py\n")),
    "stored a path of one machine: ~/s": spoil_output(stream("in ~/src/x.py\n")),
    "stored a path of one machine: C:\\Users\\": spoil_output(stream("in C:\\Users\\ada\n")),
    "stored a path of one machine: /opt/": spoil_output(shown(text_html="<a href='/opt/x'>")),
    "a path of one machine: /Users/ada/": spoil_cell(
        3, outputs=[error("File \x1b[31m/Users/ada/x.py:1\x1b[0m")]
    ),
    "stored a blank picture": spoil_output(shown(image_png=png(WHITE, WHITE))),
    "a blank picture": spoil_output(shown(image_png=png(CLEAR, CLEAR))),
    "is no valid notebook": spoil_cell(1, outputs="none"),
}


@pytest.mark.parametrize("expected", SPOILERS)
def test_a_spoiled_notebook_is_found_out(tmp_path, expected):
    notebook = sound()
    SPOILERS[expected](notebook)
    found = faults(store(tmp_path, notebook))
    assert len(found) == 1, found
    assert expected in found[0]


def test_a_large_file_is_found_out(tmp_path):
    notebook = sound()
    notebook["cells"][0]["source"] += "x" * MOST_BYTES
    assert [fault for fault in faults(store(tmp_path, notebook)) if "has 2.0 MB" in fault]


def test_a_wrong_name_is_found_out(tmp_path):
    (fault,) = faults(store(tmp_path, sound(), name="Patchify.ipynb"))
    assert "not like 02_patchify.ipynb" in fault


def test_a_pasted_class_is_found_out(tmp_path, monkeypatch):
    package = 'class Mlp:\n    """Two layers."""\n\n    def forward(self, x):\n        return x\n'
    monkeypatch.setitem(PACKAGE_CLASSES, "Mlp", classes(package)["Mlp"])
    notebook = sound()
    notebook["cells"][1]["source"] = (
        "class Mlp:\n    def forward(self, x):  # (b, n, d)\n        return x"
    )
    (fault,) = faults(store(tmp_path, notebook))
    assert "a copy of the package's class Mlp" in fault

    notebook["cells"][1]["source"] = "class Mlp:\n    def forward(self, x):\n        return 2 * x"
    assert faults(store(tmp_path, notebook)) == [], (
        "a version of one's own is what notebooks are for"
    )


def test_something_else_is_no_notebook(tmp_path):
    path = tmp_path / "02_patchify.ipynb"
    path.write_text("{", encoding="utf-8")
    (fault,) = faults(path)
    assert "no valid notebook" in fault
