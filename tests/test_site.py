"""The site: built once from the stored notebooks, without network, and looked through."""

import re
import socket
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "notebooks" / "pages"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))

sys.path.insert(0, str(PAGES))
import build  # noqa: E402
import links  # noqa: E402
import render  # noqa: E402
import repository  # noqa: E402
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
    assert links.broken(site) == []


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
    stored = render.json.loads((ROOT / "notebooks/00_quickstart.ipynb").read_text("utf-8"))
    pictures = [
        render.base64.b64decode(output["data"]["image/png"])
        for cell in stored["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    folder = site / "notebooks" / "00_quickstart"
    shown = re.findall(r'src="(00_quickstart/[^"]+)"', html(site, "notebooks/00_quickstart.html"))
    assert [(folder.parent / link).read_bytes() for link in shown] == pictures
    films = [path for path in folder.iterdir() if getattr(Image.open(path), "n_frames", 1) > 1]
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
    assert 'href="../minidit/cli/demo.py.html"' in html(site, "notebooks/06_train.html")
    copy = render.unescape(text(html(site, "minidit/sampling.py.html")))
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


def test_broken_links_fail_the_build_and_are_listed(tmp_path, capsys, monkeypatch):
    page = render.Page("README.md", "t", '<h1 id="a">t</h1> <a href="no.html">x</a>')
    monkeypatch.setattr(build, "collect", lambda: ({"README.md": page}, []))
    monkeypatch.setattr(sys, "argv", ["build.py", "--out", str(tmp_path / "site")])
    assert build.main() == 1
    assert "index.html: no.html is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("#here", None),
        ("other.html#there", None),
        ("https://arxiv.org/abs/2212.09748", None),
        ("data:,", None),
        ("#there", "names a heading"),
        ("other.html#here", "names a heading"),
        ("gone.html", "is not there"),
        ("/other.html", "root of a server"),
        ("../outside.html", "leaves the site"),
        ("", "leads nowhere"),
        (".", "is not there"),
    ],
)
def test_links_are_checked(tmp_path, link, fault):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").touch()
    (site / "other.html").write_text('<p id="there">')
    (site / "index.html").write_text(f'<p id="here"> <a href="{link}">x</a>')
    found = links.broken(site)
    assert len(found) == (fault is not None)
    assert fault is None or (found[0].startswith("index.html: ") and fault in found[0])


def test_an_id_given_twice_is_found(tmp_path):
    (tmp_path / "index.html").write_text('<p id="a"><p id="a">')
    assert links.broken(tmp_path) == ["index.html: two elements have the id a"]


# --- the repository's address ---------------------------------------------------------------------


def test_nothing_shows_without_an_address(monkeypatch):
    monkeypatch.setattr(repository, "address", lambda: None)
    assert repository.block(None) == ""
    assert "href" not in repository.line("notebooks/02_patchify.ipynb")


def test_the_address_leads_to_colab(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/ada/minidit/"\n'
    )
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    link = "https://colab.research.google.com/github/ada/minidit/blob/main/notebooks/02_x.ipynb"
    assert f'href="{link}"' in repository.line("notebooks/02_x.ipynb")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "02_x.ipynb").touch()
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- badges: x -->\n<!-- end of badges -->\nb\n")
    assert repository.refresh() == ["README.md"]
    assert f"[02]({link})" in readme.read_text()
    assert repository.refresh() == [], "the second time there is nothing to renew"


def test_the_readme_says_what_the_address_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (match,) = repository.BLOCK.finditer(readme)
    assert match[0] == match[1] + repository.block(repository.address()) + match[2]


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
