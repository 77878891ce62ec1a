"""Build the site: README.md and every file that it leads to, as HTML that needs no server.

`python3 tasks.py site` calls this. Pages lie where their files lie in the repository, with
relative links, no scripts and nothing from other servers, so any web host can serve the folder.
"""

import argparse
import re
import shutil
import sys
import tempfile
from html import escape
from pathlib import Path
from posixpath import dirname, relpath
from string import Template

import repository
from links import broken
from render import PICTURES, ROOT, Page, place, render, style

HERE = Path(__file__).resolve().parent
MARK = ".nojekyll"  # GitHub must serve the files as they are; it also tells a folder made here


def main() -> int:
    """Build, check, and say what was built; 1 if links lead nowhere."""
    parser = argparse.ArgumentParser("tasks.py site", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder (site)")
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="first renew what README.md takes from elsewhere: the thumbnails of the notebooks, "
        "and links to Colab once pyproject.toml names the repository",
    )
    args = parser.parse_args()
    if args.refresh:
        import thumbnails

        for path in [*thumbnails.refresh(), *repository.refresh()]:
            print(f"renewed {path}")
    try:
        count, size = build(args.out)
    except ValueError as error:
        print(f"tasks.py site: {error}", file=sys.stderr)
        return 2
    faults = broken(args.out)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print(f"{len(faults)} links lead nowhere", file=sys.stderr)
        return 1
    print(f"{count} pages, {size / 1e6:.1f} MB, all links checked: {args.out / 'index.html'}")
    return 0


def build(out: Path) -> tuple[int, int]:
    """Build the site in a folder, in place of what was built there before: (pages, bytes).

    Raises ValueError if the folder holds something else.
    """
    if out.exists() and not (out / MARK).is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"--out {out} holds something else; choose another folder")
    pages, files = collect()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".site-") as folder:
        fresh = Path(folder) / "site"
        _write(fresh / MARK, b"")
        _write(fresh / "style.css", (HERE / "style.css").read_bytes() + style().encode())
        for page in pages.values():
            _write(fresh / place(page.path), shell(page, pages).encode())
            for name, picture in page.pictures.items():
                _write(fresh / name, picture)
        for path in files:
            _write(fresh / path, (ROOT / path).read_bytes())
        size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
        shutil.rmtree(out, ignore_errors=True)
        fresh.replace(out)
    return len(pages), size


def collect() -> tuple[dict[str, Page], list[str]]:
    """All pages by their path, and the pictures to copy: what can be reached from README.md."""
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    waiting = ["README.md", *(f"notebooks/{name}" for name in notebooks), "notebooks/FAQ.md"]
    pages, files = {}, []
    for path in waiting:
        if path.endswith(PICTURES):
            files.append(path)
            continue
        pages[path] = render(path)
        waiting += sorted(pages[path].files - set(waiting))
    return pages, files


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# --- what is around a page ------------------------------------------------------------------------


def shell(page: Page, pages: dict[str, Page]) -> str:
    """The whole HTML of a page: its body, the list of notebooks, and the next one."""
    course = [path for path in pages if path == "README.md" or path.startswith("notebooks/")]
    here = place(page.path)
    step = dict(before="", after="")
    if page.path in course:
        i = course.index(page.path)
        around = {"before": course[i - 1 : i], "after": course[i + 1 : i + 2]}
        for name, paths in around.items():
            step[name] = "".join(_link(pages[path], here, f' class="{name}"') for path in paths)
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(page.title if page.path == "README.md" else f"{page.title} · minidit"),
        root=relpath(".", dirname(here) or "."),
        contents="\n".join(_entry(pages[path], page) for path in course),
        badges=repository.line(page.path),
        body=page.body,
        **step,
    )


def _entry(page: Page, shown: Page) -> str:
    """A line of the list of notebooks; the page that is shown has its sections below it."""
    if page is not shown:
        return f"<li>{_link(page, place(shown.path))}</li>"
    sections = [
        f'<li><a href="#{escape(name)}">{re.sub("</?a[^>]*>", "", text)}</a></li>'
        for level, name, text in page.headings
        if level == 2
    ]
    link = _link(page, place(shown.path), ' aria-current="page"')
    return f"<li>{link}<ul>{''.join(sections)}</ul></li>"


def _link(page: Page, here: str, attributes: str = "") -> str:
    title = "minidit" if page.path == "README.md" else escape(page.title)
    if page.path == "notebooks/FAQ.md":
        title = "Questions and answers"
    return f'<a href="{relpath(place(page.path), dirname(here) or ".")}"{attributes}>{title}</a>'


if __name__ == "__main__":
    sys.exit(main())
