"""The notebooks as one course: they begin and end alike, and lead to each other."""

import ast
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MODULES = {
    path.relative_to(ROOT / "minidit").with_suffix("").as_posix(): path
    for path in sorted((ROOT / "minidit").rglob("*.py"))
}

# Sections of every notebook, in this order; three have a road of their own.
SECTIONS = ["The idea", "By hand", "Break it", "Exercises", "What you own now"]
OTHERWISE = {
    "00": ["The idea", "Exercises", "What you have used"],
    "15": ["First the rule", "The verdicts", "Exercises", "What you own now"],
    "17": ["The idea", "By hand", "The hunt", "What you own now"],
}


def markdown(path):
    """The markdown cells of a notebook, in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def without_fences(text):
    """Markdown without its blocks of code, where # begins a comment."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(path):
    """The headings of a notebook or a page, in order."""
    texts = markdown(path) if path.suffix == ".ipynb" else [path.read_text(encoding="utf-8")]
    return re.findall(r"^#+ (.+?)\s*$", without_fences("\n\n".join(texts)), re.MULTILINE)


# --- one notebook ---------------------------------------------------------------------------------


def faults(name, texts, before, after):
    """Sentences on what a notebook lacks: `before`, `after` are its neighbours' names, or None."""
    yield from of_the_first_cell(texts[0], name[:2])
    yield from of_the_sections(texts, OTHERWISE.get(name[:2], SECTIONS))
    yield from of_the_exercises("\n".join(texts))
    for word, neighbour in (("Back", before), ("Next", after)):
        link = rf"\*\*{word}\*\*:(?:(?!\*\*).)*\({neighbour}\)"
        if neighbour and not re.search(link, texts[-1], re.DOTALL):
            yield f"its last cell has no **{word}** with a link to {neighbour}"


def of_the_first_cell(text, number):
    """A question, and what the reader wants to know before beginning."""
    if not re.match(rf"# {number} · .+\?\n", text):
        yield f"its title is not '# {number} · …?'"
    for part in (r"You need\*\*\s", r"It runs\*\*\s+in\s+about\s", r"The (paper|source)s?\b"):
        if not re.search(r"\*\*" + part, text):
            yield f"its first cell has no {part}"


def of_the_sections(texts, wanted):
    """The same road in every notebook."""
    titles = re.findall(r"^## (.+)$", without_fences("\n\n".join(texts)), re.MULTILINE)
    places = [next((k for k, t in enumerate(titles) if t.startswith(w)), -1) for w in wanted]
    if -1 in places or places != sorted(places):
        yield f"its sections are {titles}; wanted in this order: {wanted}"


def of_the_exercises(text):
    """How hard, and how many minutes."""
    form = r"\*\*(Exercise \d+\*\* \((easy|medium|hard), |To think about\*\* \()\d+ minutes\)\. "
    for header in re.findall(r"^\*\*(?:Exercise|To think about).*", text, re.MULTILINE):
        if not re.match(form, header):
            yield f"an exercise says not how hard and how long it is: {header[:60]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_and_ends_like_the_others(path):
    names = [None, *(p.name for p in NOTEBOOKS), "FAQ.md"]
    k = names.index(path.name)
    found = list(faults(path.name, markdown(path), names[k - 1], names[k + 1]))
    assert not found, "\n".join(found)


SOUND = [
    "# 04 · Why?\n\n**You need** [03](03_c.ipynb). **It runs** in about 9 s.\n**The paper**: …",
    "## The idea\n\n## By hand: 1\n\n## Break it\n\n## Exercises\n\n```\n## no title\n```",
    "**Exercise 1** (easy, 5 minutes). Do.\n\n**To think about** (5 minutes). Why?",
    "## What you own now\n\n**Next**: so [05 · e](05_e.ipynb). **Back**: [03 · c](03_c.ipynb).",
]
SPOILERS = {
    "its title": (0, "Why?", "Because"),
    "You need": (0, "**You need**", "You need"),
    "It runs": (0, "in about", "within"),
    "The (paper": (0, "**The paper**", "Paper"),
    "its sections": (1, "## Break it\n", "\n"),
    "how hard and how long": (2, "easy, ", ""),
    "how hard": (2, "**To think about** (5 minutes)", "**To think about**"),
    "no **Next**": (3, "05_e", "06_f"),
    "no **Back**": (3, "**Back**", "Back"),
}


@pytest.mark.parametrize("expected", SPOILERS)
def test_a_spoiled_notebook_is_found_out(expected):
    neighbours = "03_c.ipynb", "05_e.ipynb"
    assert list(faults("04_d.ipynb", SOUND, *neighbours)) == []
    k, old, new = SPOILERS[expected]
    assert old in SOUND[k]
    texts = [*SOUND[:k], SOUND[k].replace(old, new), *SOUND[k + 1 :]]
    (found,) = faults("04_d.ipynb", texts, *neighbours)
    assert expected in found


# --- links ----------------------------------------------------------------------------------------


def links(text):
    """The links of markdown that lead to files or headings, not to other servers."""
    prose = re.sub(r"`[^`\n]+`", "", without_fences(text))  # code has brackets of its own
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]


LINKS = [(path, link) for path in NOTEBOOKS for text in markdown(path) for link in links(text)]


def test_links_are_found():
    text = "[a](b.ipynb#c), `x[0](y)`, [d](https://e.org)\n```\n[f](g)\n```\n[h](#i)"
    assert links(text) == ["b.ipynb#c", "#i"]
    assert len(LINKS) > 100


@pytest.mark.parametrize(("path", "link"), LINKS, ids=lambda part: getattr(part, "stem", part))
def test_a_link_leads_somewhere(path, link):
    name, _, fragment = link.partition("#")
    target = FOLDER / unquote(name) if name else path
    assert target.exists(), f"{path.name}: {link}"
    if fragment:  # Jupyter makes it of the heading
        assert unquote(fragment) in [title.replace(" ", "-") for title in headings(target)]


# --- the package ----------------------------------------------------------------------------------


def named(texts):
    """The modules that markdown names, as patterns: `minidit/check/*.py` names a family."""
    return set(re.findall(r"`minidit/([\w/]+\*?)\.py`", "\n".join(texts)))


def test_every_name_of_a_file_is_that_of_a_module():
    for path in NOTEBOOKS:
        for pattern in named(markdown(path)):
            assert any(fnmatch(module, pattern) for module in MODULES), (path.name, pattern)


def holds(module):
    """What a module defines: functions, classes, what is stored in names, keys of tables."""
    *folder, stem = module.split("/")
    found = {folder[-1] if folder and stem == "__init__" else stem}
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            found.add(getattr(node.slice, "value", None))  # an entry of a registry
        elif isinstance(node, ast.Dict):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return found


ROWS = [
    (path.stem, name, tuple(files))
    for path in NOTEBOOKS
    for row in re.findall(r"^\| .*`minidit/.*\|$", "\n\n".join(markdown(path)), re.MULTILINE)
    for files in [re.findall(r"`minidit/([\w/]+)\.py`", row)]
    for name in re.findall(r"`\.?(?:\w+\.)*(\w+)(?:\(.*?\))?`", row.split(" | ")[0])
]


@pytest.mark.parametrize(("stem", "name", "files"), ROWS)
def test_a_summary_names_the_file_in_which_a_name_lives(stem, name, files):
    assert any(name in holds(module) for module in files), f"{name} is not in {files}"


def test_an_import_is_no_home():
    assert "EMA" in holds("train") and "EMA" not in holds("__init__") and len(ROWS) > 60
