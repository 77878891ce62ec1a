"""Notebooks, Markdown and source files as the body of an HTML page; nothing is executed.

Markdown is rendered by nbconvert, as Jupyter does. Formulas become MathML, which browsers draw
without a script, and links are bent from the repository's files to the site's pages.
"""

import json
import posixpath
import re
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from latex2mathml.converter import convert
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, TextLexer

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = (".png", ".jpg", ".svg", ".gif", ".js")
WEIGHTS = ".safetensors"  # which become scripts
NAMES = {"README.md": "minidit", "notebooks/FAQ.md": "Questions and answers"}


@dataclass
class Page:
    """One file of the repository, rendered. Paths are POSIX and relative to the repository."""

    path: str
    body: str = ""
    headings: list[tuple[int, str, str]] = field(default_factory=list)  # level, id, HTML
    links: list[tuple[str, str]] = field(default_factory=list)  # inside the repository: path, id
    said: str = ""  # the paragraph before a figure, which says what it shows

    @property
    def title(self) -> str:
        """The text of the first heading, or the path of a source file."""
        return _plain(self.headings[0][2]) if self.headings else self.path

    @property
    def name(self) -> str:
        """What the list of notebooks calls it."""
        return NAMES.get(self.path, self.title)

    @property
    def place(self) -> str:
        """Where it lies in the site."""
        return place(self.path)

    def to(self, other: str) -> str:
        """The link from here to another place in the site."""
        return posixpath.relpath(other, posixpath.dirname(self.place) or ".")


def notebooks() -> list[str]:
    """The paths of all notebooks, in order."""
    return [f"notebooks/{p.name}" for p in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]


def render(path: str) -> Page:
    """The page of one file: a notebook, Markdown, HTML, or a source file as highlighted text."""
    page, text = Page(path), (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        body = "\n".join(_cell(cell, page) for cell in json.loads(text)["cells"])
    elif path.endswith(".md"):
        body = _markdown(text, page)
    elif path.endswith(".html"):
        body = text
        found = re.findall(r'<h(\d) id="(.*?)">(.*?)</h', text)
        page.headings = [(int(level), name, title) for level, name, title in found]
    else:
        body = f"<h1>{escape(path)}</h1>\n{_source(path, text)}"
    body = re.sub(r"<table.*?</table>", _table, body, flags=re.DOTALL)
    page.body = re.sub(r'\b(href|src)="([^"]*)"', lambda m: _bent(m, page), body)
    return page


def place(path: str) -> str:
    """Where a file of the repository lies in the site."""
    if path.endswith(COPIED):
        return path
    if path.endswith(WEIGHTS):
        return f"{path}.js"
    return re.sub(r"\bREADME$", "index", re.sub(r"\.(md|ipynb|html)$", "", path)) + ".html"


def _plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def _source(path: str, text: str) -> str:
    lexer = PythonLexer() if path.endswith(".py") else TextLexer()
    return highlight(text, lexer, HtmlFormatter())


def _table(match: re.Match) -> str:
    """A table that scrolls where the page is narrower; with sentences in it, rows become lists."""
    table, kind = match[0], "table"
    cells, heads = (re.findall(rf"<{tag}\b.*?</{tag}>", table, re.DOTALL) for tag in ("td", "th"))
    if heads and any(len(_plain(cell)) > 60 for cell in cells):
        kind, rows = "table long", table.split("<tr")
        for head in heads:  # each cell is told what stands above it
            told = f'<td data-head="{escape(_plain(head))}"'
            rows = [re.sub(r"<td(?! data)", told, row, count=1) for row in rows]
        table = "<tr".join(rows)
    return f'<div class="{kind}" tabindex="0">{table}</div>'


def _bent(attribute: re.Match, page: Page) -> str:
    """A link or picture, led to its place in the site; those to the web stay as they are."""
    parts = urlsplit(unescape(attribute[2]))
    if parts.scheme or parts.netloc:
        return attribute[0]
    path, link = page.path if parts.fragment else "an empty link", ""
    if parts.path:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), unquote(parts.path)))
        link = quote(page.to(place(path)))
    page.links.append((path, unquote(parts.fragment)))
    fragment = f"#{escape(parts.fragment)}" if parts.fragment else ""
    return f'{attribute[1]}="{link}{fragment}"'


# --- Markdown -------------------------------------------------------------------------------------


class Renderer(IPythonRenderer):
    """Markdown to HTML for one page, with formulas as MathML and an id for each heading."""

    def __init__(self, page: Page) -> None:
        super().__init__(escape=False)
        self.page = page

    def inline_math(self, body: str) -> str:
        """A formula within a line."""
        return convert(body)

    def block_math(self, body: str) -> str:
        """A formula on lines of its own; it may be wider than a phone."""
        return f'<span class="formula" tabindex="0">{convert(body, display="block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        """A formula that starts with \\begin."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def heading(self, text: str, level: int, **attrs: object) -> str:
        """A heading with a link to itself; its id is what GitHub or Jupyter makes of it."""
        name = _plain(text).strip()
        if self.page.path.endswith(".md"):
            name = re.sub(r"[^\w\- ]", "", name.lower())
        name = name.replace(" ", "-")
        while name in (own for _, own, _ in self.page.headings):
            name += "-1"
        self.page.headings.append((level, name, text))
        name = escape(name)
        return f'<h{level} id="{name}">{text} <a class="here" href="#{name}">¶</a></h{level}>\n'

    def codespan(self, text: str) -> str:
        """Code within a line; a file of the package becomes a link to its source."""
        code = super().codespan(text)
        if re.fullmatch(r"minidit/[\w/]+\.py", text) and (ROOT / text).is_file():
            link = posixpath.relpath(text, posixpath.dirname(self.page.path))
            return f'<a href="{link}">{code}</a>'
        return code


def _markdown(text: str, page: Page) -> str:
    return MarkdownWithMath(renderer=Renderer(page)).render(text)


# --- notebooks ------------------------------------------------------------------------------------


def _cell(cell: dict, page: Page) -> str:
    """A cell, with the outputs that are stored in it."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        body = _markdown(source, page)
        page.said = "".join(re.findall(r"<p>(.*?)</p>", body, re.DOTALL)[-1:])
        return body
    outputs = "".join(_output(output, source, page) for output in cell["outputs"])
    code = _source("cell.py", source)
    return f'<div class="input">{code}</div>\n<div class="output">{outputs}</div>'


def _output(output: dict, source: str, page: Page) -> str:
    """What a cell printed, drew or raised."""
    if output["output_type"] == "stream":
        return f"<pre>{ansi2html(''.join(output['text']))}</pre>"
    if output["output_type"] == "error":
        return f'<pre class="error">{ansi2html(chr(10).join(output["traceback"]))}</pre>'
    data = {kind: "".join(text) for kind, text in output["data"].items()}
    if "image/png" in data:
        picture = data["image/png"].replace("\n", "")
        return f'<img src="data:image/png;base64,{picture}" alt="{_shown(source, page)}">\n'
    if "text/markdown" in data:
        return _markdown(data["text/markdown"], page)
    if "text/html" in data:  # its styles would be those of the whole page
        return re.sub(r"<style>.*?</style>", "", data["text/html"], flags=re.DOTALL)
    return f"<pre>{ansi2html(data['text/plain'])}</pre>"


def _shown(source: str, page: Page) -> str:
    """What a figure shows: what was said before it, and what its code writes at its axes."""
    written = re.findall(r'\b(?:[xy]|[xy]label|title)="([^"{]+)"', source)
    above = page.headings[-1][2] if page.headings else ""
    told = (
        f"{page.said} Written in it: {', '.join(dict.fromkeys(written))}." if written else page.said
    )
    return escape(" ".join(_plain(f"figure in “{above}”. {told}").split()))
