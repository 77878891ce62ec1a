"""Links that need the repository's address: to Colab, and to the file itself.

The address is written in one place, `[project.urls]` in pyproject.toml, as `Repository`. Until it
is there, no page and no README shows anything.
"""

import re

from render import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

BLOCK = re.compile(r"(<!-- badges: .*? -->\n).*?(<!-- end of badges -->)", re.DOTALL)


def address() -> str | None:
    """The repository's address without a slash at its end, such as https://github.com/a/b."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    urls = tomllib.loads(text)["project"].get("urls", {})
    return urls["Repository"].rstrip("/") if "Repository" in urls else None


def colab(path: str, address: str) -> str:
    """Where Colab opens a notebook of a repository on GitHub."""
    owned = address.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owned}/blob/main/{path}"


def line(path: str) -> str:
    """What stands above a notebook's page: how to run it."""
    if not path.endswith(".ipynb"):
        return ""
    found = ["run it: <code>python3 tasks.py lab</code>"]
    if address():
        found.append(
            f'<a href="{colab(path, address())}">in Colab</a>, after a first cell with '
            f"<code>%pip install git+{address()}</code>"
        )
        found.append(f'<a href="{address()}/blob/main/{path}">the file</a>')
    return f'<p class="run">{" · ".join(found)}</p>'


def block(address: str | None) -> str:
    """The lines of README.md on Colab; none without an address."""
    if address is None:
        return ""
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    links = [f"[{p.name[:2]}]({colab(f'notebooks/{p.name}', address)})" for p in paths]
    return (
        f"Open in Colab, after a first cell with `%pip install git+{address}`:\n"
        + " ·\n".join(links)
        + "\n"
    )


def refresh() -> list[str]:
    """Renew that block of README.md; returns the files that changed."""
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = BLOCK.sub(lambda m: m[1] + block(address()) + m[2], before)
    if after == before:
        return []
    path.write_text(after, encoding="utf-8", newline="\n")
    return ["README.md"]
