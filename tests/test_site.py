"""The site: built once from the stored notebooks, without network, and looked through."""

import base64
import io
import json
import re
import socket
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "notebooks" / "pages"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))

sys.path.insert(0, str(PAGES))
import build  # noqa: E402
import render  # noqa: E402
import thumbnails  # noqa: E402

sys.path.remove(str(PAGES))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, built while the network is closed."""

    def refuse(*_, **__):
        raise AssertionError("the site must not need the network")

    out = tmp_path_factory.mktemp("site") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        build.build(out)
    return out


def html(site, place):
    return (site / place).read_text(encoding="utf-8")


def text(body):
    return re.sub(r"<[^>]+>", "", body)


# --- the pages ------------------------------------------------------------------------------------


def test_no_link_leads_nowhere(site):
    """In the files as they are, whatever the check of the build believes."""
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {
        path: [unescape(x) for x in re.findall(r'\bid="(.*?)"', pages[path])] for path in pages
    }
    for path, page in pages.items():
        assert len(anchors[path]) == len(set(anchors[path])), path
        for link in set(re.findall(r'\b(?:href|src)="(.*?)"', page)):
            parts = urlsplit(unescape(link))
            if not (parts.scheme or parts.netloc):
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                assert target.is_file() and target.is_relative_to(site.resolve()), (path, link)
                assert not parts.fragment or unquote(parts.fragment) in anchors[target], link


def test_every_notebook_has_a_page_and_its_place_in_the_order(site):
    order = ["index.html", *(f"notebooks/{stem}.html" for stem in NOTEBOOKS), "notebooks/FAQ.html"]
    for before, here, after in zip([None, *order], order, [*order[1:], None]):
        page = html(site, here)
        for name, other in (("before", before), ("after", after)):
            found = re.findall(rf'<a href="([^"]+)" class="{name}"', page)
            wanted = [] if other is None else [(site / other).resolve()]
            assert [((site / here).parent / link).resolve() for link in found] == wanted
        for stem in NOTEBOOKS:
            assert f"{stem}.html" in page, f"{here} doesn't list {stem}"


def test_pages_load_nothing_from_elsewhere_and_run_nothing(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"<(script|iframe|object|embed)\b", page), path
        loaded = re.findall(r'<(?:img|link)\b[^>]*?(?:src|href)="([^"]+)"', page)
        assert not [link for link in loaded if link.startswith(("http", "//"))], path
    assert "url(" not in html(site, "style.css") and "@import" not in html(site, "style.css")


def test_stored_outputs_are_shown(site):
    page = html(site, "notebooks/02_patchify.html")
    assert "[12., 13., 18., 19.]," in text(page), "what a cell printed"
    stored = json.loads((ROOT / "notebooks/00_quickstart.ipynb").read_text("utf-8"))
    pictures = [
        base64.b64decode(output["data"]["image/png"])
        for cell in stored["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    page = html(site, "notebooks/00_quickstart.html")
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="figure in “[^"]+”"', page)
    assert [base64.b64decode(picture) for picture in shown] == pictures
    films = [p for p in pictures if getattr(Image.open(io.BytesIO(p)), "n_frames", 1) > 1]
    assert len(films) == 1, "the animation stays one"


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_no_formula_is_left_as_source(site, stem):
    page = html(site, f"notebooks/{stem}.html")
    prose = re.sub(r"<(pre|code)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert "$" not in text(prose)
    assert not re.findall(r"\\[a-zA-Z]+", text(prose)), "a command that MathML doesn't know"


def test_solutions_are_folded(site):
    for stem in NOTEBOOKS:
        source = (ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8")
        page = html(site, f"notebooks/{stem}.html")
        assert page.count("<details>") == source.count("<details>")
        assert "<details open" not in page


def test_files_of_the_package_are_linked_to_a_copy(site):
    for stem in NOTEBOOKS:
        source = (ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8")
        page = html(site, f"notebooks/{stem}.html")
        for file in set(re.findall(r"`(minidit/[\w/]+\.py)`", source)):
            assert f'href="../{file}.html"' in page, (stem, file)
    copy = unescape(text(html(site, "minidit/sampling.py.html")))
    assert (ROOT / "minidit/sampling.py").read_text(encoding="utf-8").strip() in copy


def test_wide_things_scroll_by_themselves(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert page.count("<table") == page.count('<div class="table" tabindex="0"><table')


# --- building -------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_left_alone(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(sys, "argv", ["build.py", "--out", str(tmp_path)])
    assert build.main() == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("#here", None),
        ("FAQ.md#there-it-is", None),
        ("../LICENSE", None),
        ("https://arxiv.org/abs/2212.09748", None),
        ("data:,", None),
        ("#there", "notebooks/a.md has no heading #there"),
        ("FAQ.md#here", "notebooks/FAQ.md has no heading #here"),
        ("gone.md", "notebooks/gone.md is not there"),
        ("/FAQ.md", "/FAQ.md is not there"),
        ("../../outside.md", "../outside.md is not there"),
        ("", "an empty link is not there"),
        (".", "notebooks is not there"),
    ],
)
def test_links_are_checked(tmp_path, capsys, monkeypatch, link, fault):
    root = tmp_path / "clone"
    (root / "notebooks").mkdir(parents=True)
    (tmp_path / "outside.md").touch()
    for name, text in {
        "README.md": "[a](notebooks/a.md)",
        "LICENSE": "MIT",
        "notebooks/FAQ.md": "# There, it is!",
        "notebooks/a.md": f'# Here\n<a href="{link}">x</a>',
        "pyproject.toml": "[project]\n",
    }.items():
        (root / name).write_text(text)
    for module in (build, render):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(sys, "argv", ["build.py", "--out", str(tmp_path / "site")])
    assert build.main() == (0 if fault is None else 2)
    error = capsys.readouterr().err
    assert ("" if fault is None else f"1 links lead nowhere\nnotebooks/a.md: {fault}") in error
    assert (tmp_path / "site").exists() == (fault is None), "nothing is built with a broken link"


def test_headings_with_one_name_have_an_id_each():
    page = render.Page("notebooks/x.ipynb")
    html = render._markdown("## Try it\n\n## Try it\n", page)
    assert [name for _, name, _ in page.headings] == re.findall(r'id="(.*?)"', html)
    assert len({name for _, name, _ in page.headings}) == 2


# --- the repository's address ---------------------------------------------------------------------


def test_nothing_shows_without_an_address(monkeypatch):
    monkeypatch.setattr(build, "address", lambda: None)
    page = render.Page("notebooks/02_patchify.ipynb")
    assert build.block(None) == ""
    assert "tasks.py lab" in build.whole(page, [page]) and "olab" not in build.whole(page, [page])


def test_the_address_leads_to_colab(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/ada/minidit/"\n'
    )
    for module in (build, render):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    link = "https://colab.research.google.com/github/ada/minidit/blob/main/notebooks/02_x.ipynb"
    page = render.Page("notebooks/02_x.ipynb")
    assert f'href="{link}"' in build.whole(page, [page])
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "02_x.ipynb").touch()
    home = tmp_path / "README.md"
    home.write_text("a\n<!-- badges: x -->\n<!-- end of badges -->\nb\n")
    assert build.refresh() == ["README.md"]
    assert f"[02]({link})" in home.read_text()
    assert build.refresh() == [], "the second time there is nothing to renew"


def test_the_readme_says_what_the_address_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (match,) = build.BLOCK.finditer(text)
    assert match[0] == match[1] + build.block(build.address()) + match[2]


# --- thumbnails -----------------------------------------------------------------------------------

CLOSE = 6  # of 255, in the mean: the same figure, stored anew


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_thumbnails_are_small_and_of_the_stored_figure(stem):
    path = thumbnails.FOLDER / f"{stem}.png"
    assert path.is_file(), "python3 tasks.py site --refresh draws it"
    assert path.stat().st_size <= 25_000
    again = thumbnails.thumbnail(ROOT / "notebooks" / f"{stem}.ipynb")
    kept = Image.open(path)
    assert kept.size == again.size == thumbnails.SIZE
    assert thumbnails.difference(kept, again) < CLOSE, "python3 tasks.py site --refresh renews it"


def test_thumbnails_of_different_notebooks_differ():
    images = [Image.open(path) for path in sorted(thumbnails.FOLDER.glob("*.png"))]
    pairs = [(a, b) for i, a in enumerate(images) for b in images[:i]]
    assert min(thumbnails.difference(a, b) for a, b in pairs) > CLOSE
