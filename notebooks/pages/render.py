"""Notebooks, Markdown and source files as the body of an HTML page; nothing is executed.

Markdown is rendered by nbconvert, as Jupyter does. Formulas become MathML, which browsers draw
without a script, and links are bent from the repository's files to the site's pages.
"""

import base64
import json
import posixpath
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape, unescape
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from latex2mathml.converter import convert
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer, TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURES = (".png", ".jpg", ".svg", ".gif")


@dataclass
class Page:
    """One file of the repository, rendered. Paths are POSIX and relative to the repository."""

    path: str
    title: str = ""
    body: str = ""
    headings: list[tuple[int, str, str]] = field(default_factory=list)  # level, id, HTML
    files: set[str] = field(default_factory=set)  # of the repository, that it links to
    pictures: dict[str, bytes] = field(default_factory=dict)  # by their place in the site


def render(path: str) -> Page:
    """The page of one file: a notebook, Markdown, or a source file as highlighted text."""
    page = Page(path)
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        page.body = _notebook(json.loads(text)["cells"], page)
    elif path.endswith(".md"):
        page.body = _markdown(text, page, _github_anchor)
    else:
        page.title = path
        page.body = f"<h1>{escape(path)}</h1>\n{_source(path, text)}"
    table = r'<div class="table" tabindex="0">\g<0></div>'  # scrolls where the page is narrower
    page.body = re.sub(r"<table.*?</table>", table, page.body, flags=re.DOTALL)
    page.body = re.sub(r'\b(href|src)="([^"]*)"', lambda m: _bent(m, page), page.body)
    if not page.title:
        page.title = _plain(page.headings[0][2]) if page.headings else path
    return page


def place(path: str) -> str:
    """Where a file of the repository lies in the site."""
    folder, name = posixpath.split(path)
    stem, suffix = posixpath.splitext(name)
    if name == "README.md":
        return posixpath.join(folder, "index.html")
    if suffix in (".md", ".ipynb"):
        return posixpath.join(folder, f"{stem}.html")
    return path if suffix in PICTURES else f"{path}.html"


def style() -> str:
    """The colours of highlighted code."""
    return HtmlFormatter(style="friendly").get_style_defs(".highlight")


# --- Markdown -------------------------------------------------------------------------------------


class Renderer(IPythonRenderer):
    """Markdown to HTML for one page, with formulas as MathML and an id for each heading."""

    def __init__(self, page: Page, anchor: Callable[[str], str]) -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.page, self.anchor = page, anchor

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
        """A heading with its id and a link to itself."""
        name, taken = self.anchor(_plain(text)), [name for _, name, _ in self.page.headings]
        if name in taken:
            name = f"{name}-{sum(own == name or own.startswith(f'{name}-') for own in taken)}"
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


def _markdown(text: str, page: Page, anchor: Callable[[str], str]) -> str:
    return MarkdownWithMath(renderer=Renderer(page, anchor)).render(text)


def _plain(html: str) -> str:
    """The text of some HTML."""
    return unescape(re.sub(r"<[^>]+>", "", html))


def _github_anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _jupyter_anchor(title: str) -> str:
    """What Jupyter makes of a heading."""
    return title.strip().replace(" ", "-")


def _bent(attribute: re.Match, page: Page) -> str:
    """A link or picture, led to its place in the site if it names a file of the repository."""
    name, link = attribute[1], unescape(attribute[2])
    parts = urlsplit(link)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), unquote(parts.path)))
    outside = parts.scheme or parts.netloc or not parts.path or path.startswith("..")
    if outside or not (ROOT / path).is_file():
        return attribute[0]  # the check of the finished site says so if it leads nowhere
    page.files.add(path)
    link = posixpath.relpath(place(path), posixpath.dirname(place(page.path)))
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f'{name}="{quote(link)}{escape(fragment)}"'


# --- source files ---------------------------------------------------------------------------------


def _source(path: str, text: str) -> str:
    try:
        lexer = get_lexer_for_filename(path)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter())


# --- notebooks ------------------------------------------------------------------------------------


def _notebook(cells: list[dict], page: Page) -> str:
    """The cells one below the other, with the outputs that are stored in them."""
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_markdown(source, page, _jupyter_anchor))
        elif cell["cell_type"] == "code":
            code = highlight(source, PythonLexer(), HtmlFormatter())
            outputs = "".join(_output(output, page) for output in cell["outputs"])
            parts.append(f'<div class="input">{code}</div>\n<div class="output">{outputs}</div>')
    return "\n".join(parts)


def _output(output: dict, page: Page) -> str:
    """What a cell printed, drew or raised."""
    if output["output_type"] == "stream":
        return f"<pre>{ansi2html(''.join(output['text']))}</pre>"
    if output["output_type"] == "error":
        return f'<pre class="error">{ansi2html(chr(10).join(output["traceback"]))}</pre>'
    data = {kind: "".join(text) for kind, text in output["data"].items()}
    if "image/png" in data:
        return _picture(base64.b64decode(data["image/png"]), page)
    if "text/markdown" in data:
        return _markdown(data["text/markdown"], page, _jupyter_anchor)
    if "text/html" in data:  # its styles would be those of the whole page
        return re.sub(r"<style>.*?</style>", "", data["text/html"], flags=re.DOTALL)
    return f"<pre>{ansi2html(data['text/plain'])}</pre>"


def _picture(picture: bytes, page: Page) -> str:
    """A picture as a file of its own; a phone opens it large when it is touched."""
    width, height = struct.unpack(">II", picture[16:24])  # of the header of a PNG
    name = f"{posixpath.splitext(page.path)[0]}/{len(page.pictures) + 1:02d}.png"
    page.pictures[name] = picture
    link = posixpath.relpath(name, posixpath.dirname(page.path))
    above = page.headings[-1][2] if page.headings else ""
    alt = escape(f"figure in “{_plain(above)}”")
    size = f'width="{width}" height="{height}"'
    return f'<a href="{link}"><img loading="lazy" src="{link}" {size} alt="{alt}"></a>\n'
