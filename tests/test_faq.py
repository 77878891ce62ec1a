"""The FAQ: twenty questions, each with links to executed cells that exist and show something."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
PAGE = (FOLDER / "FAQ.md").read_text(encoding="utf-8")

# A word of each question, by its number: a question that is dropped or exchanged is noticed.
QUESTIONS = {
    1: "blocks", 2: "three channels", 3: "null label", 4: "2C", 5: "zero-init", 6: "FID",
    7: "CIFAR-10", 8: "0.2", 9: "own images", 10: "text", 11: "checkpoints", 12: "memory",
    13: "EMA", 14: "autoencoder", 15: "0.18215", 16: "VQ", 17: "layout", 18: "embedding",
    19: "fp16", 20: "resolution",
}  # fmt: skip

SHOWN = re.compile(r"- \[(\d\d) · (.+?)\]\((\d\d_\w+\.ipynb)#(\S+)\): `(.+)`")


def sections():
    """Each question's number, its heading, and what is below it."""
    parts = re.split(r"^## (\d+) · (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return list(zip(map(int, parts[::3]), parts[1::3], parts[2::3], strict=True))


def headings(name):
    """A notebook's headings in order, each with the executed code cells below it."""
    found = [("", [])]
    for cell in json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = re.sub(r"^```.*?^```", "", source, flags=re.MULTILINE | re.DOTALL)
            found += [(title, []) for title in re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)]
        elif cell["cell_type"] == "code" and cell["execution_count"] and cell["outputs"]:
            found[-1][1].append(source.split("\n")[0])
    return found


def anchor(title):
    """What Jupyter makes of a heading."""
    return title.replace(" ", "-")


LINKS = [(number, *link) for number, _, body in sections() for link in SHOWN.findall(body)]


def test_the_twenty_questions_are_there():
    assert [number for number, _, _ in sections()] == list(QUESTIONS)
    for number, heading, _ in sections():
        assert heading.endswith("?") and QUESTIONS[number] in heading, heading


@pytest.mark.parametrize(("number", "body"), [(n, b) for n, _, b in sections()])
def test_every_answer_has_sentences_and_a_cell(number, body):
    answer, *links = re.split(r"^- ", body.strip(), flags=re.MULTILINE)
    assert len(re.findall(r"[.)](?:\s|$)", answer)) >= 2, "two sentences at least"
    assert links and all(SHOWN.fullmatch("- " + link.strip()) for link in links), links


@pytest.mark.parametrize(("number", "short", "title", "name", "fragment", "line"), LINKS)
def test_the_cell_is_there(number, short, title, name, fragment, line):
    assert name.startswith(short)
    assert fragment == anchor(title)
    below = [cells for heading, cells in headings(name) if heading == title]
    assert len(below) == 1, f"{name} has {len(below)} headings {title!r}"
    assert below[0].count(line) == 1, f"below {title!r} begin: {below[0]}"


def words_of(link):
    """What a notebook says and shows, or another page; without the pictures."""
    text = (FOLDER / link).read_text(encoding="utf-8")
    if not link.endswith(".ipynb"):
        return text
    cells = json.loads(text)["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    found = ["".join(cell["source"]) for cell in cells]
    found += ["".join(output.get("text", "")) for output in shown]
    found += ["".join(v) for out in shown for k, v in out.get("data", {}).items() if "text" in k]
    return "\n".join(found)


NUMBER = r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?"


@pytest.mark.parametrize(("number", "body"), [(n, b) for n, _, b in sections()])
def test_figures_are_those_of_the_linked_pages(number, body):
    answer = re.split(r"^- ", body.strip(), flags=re.MULTILINE)[0]
    links = dict.fromkeys(re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))", body))
    known = {float(n.replace(",", "")) for n in re.findall(NUMBER, "\n".join(map(words_of, links)))}
    for figure in re.findall(NUMBER, re.sub(r"\]\(.*?\)", "", answer)):
        if len(figure) > 2:  # shorter ones are found anywhere
            decimals = len(figure.partition(".")[2])
            rounded = [f"{x * unit:.{decimals}f}" for x in known for unit in (1, 100, 1e-6)]
            assert figure.replace(",", "") in rounded, f"{figure} is nowhere in {[*links]}"


def test_every_link_leads_somewhere():
    prose = re.sub(r"`[^`\n]+`", "", PAGE)  # code has brackets of its own
    for name, _, fragment in re.findall(r"\]\(([^)#]+)(#(\S+))?\)", prose):
        assert (FOLDER / name).is_file(), f"{name} is not there"
        if fragment:
            assert unquote(fragment) in [anchor(title) for title, _ in headings(name)], fragment


def test_the_readme_links_to_it():
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert "(notebooks/FAQ.md)" in readme
