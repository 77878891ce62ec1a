"""Build the site: README.md and every file that it leads to, as HTML that needs no server.

`python3 tasks.py site` calls this. Pages lie where their files lie in the repository, with
relative links and nothing from other servers, so any web host can serve the folder, and none is
needed. Scripts run on one page only, which draws digits.
"""

import argparse
import base64
import re
import shutil
import sys
import tempfile
from pathlib import Path

from jinja2 import Template
from pygments.formatters import HtmlFormatter

import thumbnails
from hatch_build import halved
from render import COPIED, ROOT, WEIGHTS, Page, notebooks, place, render

HERE = Path(__file__).resolve().parent
MARK = ".nojekyll"  # GitHub must serve the files as they are; it also tells a folder made here


def main() -> int:
    """Build, check, and say what was built; 1 if links lead nowhere."""
    parser = argparse.ArgumentParser("tasks.py site", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder (site)")
    told = "first renew what README.md takes from elsewhere: the thumbnails of the notebooks, and "
    told += "links to Colab once pyproject.toml names the repository"
    parser.add_argument("--refresh", action="store_true", help=told)
    args = parser.parse_args()
    if args.refresh:
        for path in [*thumbnails.refresh(), *refresh()]:
            print(f"renewed {path}")
    try:
        count = build(args.out)
    except ValueError as error:
        print(f"tasks.py site: {error}", file=sys.stderr)
        return 2
    print(f"{count} pages, all links checked: {args.out / 'index.html'}")
    return 0


def build(out: Path) -> int:
    """Build the site in a folder, in place of what was built there before; the number of pages.

    Raises ValueError if the folder holds something else, and if links lead nowhere.
    """
    if out.exists() and not (out / MARK).is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"--out {out} holds something else; choose another folder")
    pages, files = collect()
    if faults := broken(pages, files):
        raise ValueError("\n".join([f"{len(faults)} links lead nowhere", *faults]))
    light, dark = (HtmlFormatter(style=name) for name in ("friendly", "github-dark"))
    colours = light.get_style_defs(".highlight") + "\n@media (prefers-color-scheme: dark) {\n"
    colours += dark.get_style_defs(".highlight") + "\n}\n"
    content = {MARK: b"", "style.css": (HERE / "style.css").read_bytes() + colours.encode()}
    content |= {page.place: whole(page, pages).encode() for page in pages}
    content |= {place(path): copied(path) for path in files}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".site-") as folder:
        fresh = Path(folder) / "site"
        for name, data in content.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(data)
        shutil.rmtree(out, ignore_errors=True)
        fresh.replace(out)
    return len(pages)


def collect() -> tuple[list[Page], list[str]]:
    """All pages, and the files to copy: what can be reached from README.md."""
    waiting = ["README.md", *notebooks(), "notebooks/FAQ.md"]
    pages, files = [], []
    for path in waiting:
        if path.endswith((*COPIED, WEIGHTS)):
            files.append(path)
            continue
        pages.append(render(path))
        linked = {path for path, _ in pages[-1].links if not path.startswith(("..", "/"))}
        waiting += sorted(path for path in linked - set(waiting) if (ROOT / path).is_file())
    return pages, files


def copied(path: str) -> bytes:
    """A file for the site; weights as a script, for a page that has no server can't read files."""
    content = (ROOT / path).read_bytes()
    if not path.endswith(WEIGHTS):
        return content
    return b'const WEIGHTS = "%s";\n' % base64.b64encode(halved(content))


def whole(page: Page, pages: list[Page]) -> str:
    """The whole HTML of a page: its body, the list of notebooks, and the next one."""
    course = [p for p in pages if p.path == "README.md" or p.path.startswith("notebooks/")]
    before = dict(zip([p.path for p in course[1:]], course)).get(page.path)
    after = dict(zip([p.path for p in course], course[1:])).get(page.path)
    text = (HERE / "page.html").read_text(encoding="utf-8")
    return Template(text, trim_blocks=True).render(
        page=page,
        course=course,
        before=before,
        after=after,
        address=address(),
        colab=colab,
    )


def broken(pages: list[Page], files: list[str]) -> list[str]:
    """A sentence on every link of a page that leads to no page, file or heading of the site."""
    known = {page.path: [name for _, name, _ in page.headings] for page in pages}
    found = []
    for page in pages:
        for path, heading in dict.fromkeys(page.links):
            if path not in known and path not in files:
                found.append(f"{page.path}: {path} is not there")
            elif heading and heading not in known.get(path, []):
                found.append(f"{page.path}: {path} has no heading #{heading}")
    return found


# --- links that need the repository's address -----------------------------------------------------

BLOCK = re.compile(r"(<!-- badges: .*? -->\n).*?(<!-- end of badges -->)", re.DOTALL)


def address() -> str | None:
    """The repository's address without a slash at its end, such as https://github.com/a/b.

    It is written in one place, `[project.urls]` in pyproject.toml, as `Repository`. Until it is
    there, no page and no README shows anything.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+?)/?"$', text, re.MULTILINE)
    return found and found[1]


def colab(path: str, address: str) -> str:
    """Where Colab opens a notebook of a repository on GitHub."""
    owned = address.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owned}/blob/main/{path}"


def block(address: str | None) -> str:
    """The lines of README.md on Colab; none without an address."""
    if address is None:
        return ""
    links = [f"[{path[10:12]}]({colab(path, address)})" for path in notebooks()]
    first = f"Open in Colab; its first cell then needs `%pip install git+{address}`:\n"
    return first + " ·\n".join(links) + "\n"


def refresh() -> list[str]:
    """Renew that block of README.md; returns the files that changed."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = BLOCK.sub(lambda m: m[1] + block(address()) + m[2], before)
    path.write_text(after, encoding="utf-8", newline="\n")
    return ["README.md"] if after != before else []


if __name__ == "__main__":
    sys.exit(main())
