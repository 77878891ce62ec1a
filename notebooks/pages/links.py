"""Links of a built site that lead nowhere: files that are missing and headings that don't exist.

Only links inside the site are followed; nothing is fetched.
"""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Reader(HTMLParser):
    """The anchors and the links of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.append(value)
            if name in ("href", "src"):
                self.links.append(value or "")


def broken(folder: Path) -> list[str]:
    """A sentence on every link in the pages below a folder that leads nowhere."""
    folder = folder.resolve()
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        reader = _Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        pages[path] = reader
    found = []
    for path, reader in pages.items():
        name = path.relative_to(folder).as_posix()
        twice = {anchor for anchor in reader.anchors if reader.anchors.count(anchor) > 1}
        found += [f"{name}: two elements have the id {anchor}" for anchor in sorted(twice)]
        for link in dict.fromkeys(reader.links):
            fault = _fault(link, path, folder, pages)
            if fault:
                found.append(f"{name}: {link or 'an empty link'} {fault}")
    return found


def _fault(link: str, page: Path, folder: Path, pages: dict[Path, _Reader]) -> str | None:
    """What is wrong with a link on a page, or None."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None  # the web, a letter, or data in the page itself
    if not link:
        return "leads nowhere"
    if parts.path.startswith("/"):
        return "starts at the root of a server, where the site may not lie"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(folder):
        return "leaves the site"
    if not target.is_file():
        return "is not there"
    if parts.fragment and target in pages:
        if unquote(parts.fragment) not in pages[target].anchors:
            return "names a heading that the page doesn't have"
    return None
