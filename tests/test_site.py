"""The site: built once from the stored notebooks, without network, and looked through."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from PIL import Image

import minidit
from minidit import weights
from minidit.evaluate.attention import attention_maps

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "notebooks" / "pages"
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))

sys.path.insert(0, str(PAGES))
import build  # noqa: E402
import hatch_build  # noqa: E402
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


DRAW = "notebooks/pages/draw.html"


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
    order.append(DRAW)
    for before, here, after in zip([None, *order], order, [*order[1:], None]):
        page = html(site, here)
        for name, other in (("before", before), ("after", after)):
            found = re.findall(rf'<a href="([^"]+)" class="{name}"', page)
            wanted = [] if other is None else [(site / other).resolve()]
            assert [((site / here).parent / link).resolve() for link in found] == wanted
        for stem in NOTEBOOKS:
            assert f"{stem}.html" in page, f"{here} doesn't list {stem}"


def test_pages_load_nothing_from_elsewhere_and_only_one_runs_scripts(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"<(iframe|object|embed)\b", page), path
        assert (path == site / DRAW) == ("<script" in page), path
        loaded = re.findall(r'<(?:img|link|script)\b[^>]*?(?:src|href)="([^"]+)"', page)
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
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="figure in “[^"]+”. [^"]', page)
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
        held = re.findall(r'<div class="table( long)?" tabindex="0"><table.*?</table>', page, re.S)
        assert page.count("<table") == len(held)
    (course,) = re.findall(r'<div class="table long".*?</table>', html(site, "index.html"), re.S)
    row = re.findall(r'<td data-head="(.*?)"', course)[:5]
    assert row == ["", "", "question", "you build", "runs in"], "on a phone, beside each cell"


def test_every_picture_has_words(site):
    for path in site.rglob("*.html"):
        for picture in re.findall(r"<img\b[^>]*>", path.read_text(encoding="utf-8")):
            assert re.search(r'alt="[^"]{10,}"', picture), (path, picture[-200:])


def test_the_dark_scheme_names_every_colour_anew(site):
    sheet = html(site, "style.css")
    light, dark = re.findall(r":root \{(.*?)\}", sheet)
    own = [set(re.findall(r"(--\w+): #", colours)) for colours in (light, dark)]
    assert own[0] == own[1] and len(own[0]) > 5
    rest = sheet[sheet.index("* { box-sizing") : sheet.index("pre { line-height: 125%; }")]
    assert not re.findall(r"#[0-9a-f]{3,6}\b", rest), "a colour that both schemes would share"


# --- the page that draws --------------------------------------------------------------------------

PROGRAM = """
const fs = require("fs"), [dit, weights, asked] = process.argv.slice(1);
const { readWeights, forward, ddim, noise } = require(dit);
const net = readWeights(fs.readFileSync(weights, "utf8").split('"')[1]);
const { x, t, y } = JSON.parse(fs.readFileSync(asked));
const one = x.map((image, k) => forward(net, Float32Array.from(image), t[k], y[k]));
const states = [...ddim(net, Float32Array.from(x[0]), y[0], 1.5, 7)];
const plain = (arrays) => arrays.map((array) => [...array]);
console.log(JSON.stringify({
  out: plain(one.map((o) => o.out)), attention: one.map((o) => plain(o.attention)),
  t: states.map((s) => s.t), x: plain(states.map((s) => s.x)), noise: [...noise(7, 5000)],
}));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js here")
def test_the_network_in_javascript_is_the_network(site, tmp_path):
    """Output, attention and DDIM's states, within 1e-4 of PyTorch's with the same weights."""
    name = "data/weights/dit-mnist-fine.safetensors"
    (tmp_path / "half.safetensors").write_bytes(build.halved((ROOT / name).read_bytes()))
    model, diffusion = minidit.load(tmp_path / "half.safetensors")
    x = torch.randn(3, 1, 28, 28, generator=torch.manual_seed(0))
    t, y = torch.tensor([999, 500, 3]), torch.tensor([3, model.null_label, 7])
    asked = {"x": x.flatten(1).tolist(), "t": t.tolist(), "y": y.tolist()}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    files = [PAGES / "dit.js", site / f"{name}.js", tmp_path / "asked.json"]
    done = subprocess.run(["node", "-e", PROGRAM, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {key: torch.tensor(value) for key, value in json.loads(done.stdout).items()}
    with torch.no_grad():
        assert torch.allclose(found["out"], model(x, t, y).flatten(1), rtol=0, atol=1e-4)
    seen = attention_maps(model, x, t, y).mean(dim=2)  # (blocks, b, n, n): of all heads
    assert torch.allclose(found["attention"], seen.transpose(0, 1).flatten(2), rtol=0, atol=1e-4)
    states = minidit.ddim(minidit.guided(model, 1.5), diffusion, x[:1], y[:1], steps=7)
    numbers, images, _ = zip(*states)
    assert found["t"].tolist() == list(numbers)
    assert torch.allclose(found["x"], torch.cat(images).flatten(1), rtol=0, atol=1e-4)
    assert abs(found["noise"].mean()) < 0.05 and abs(found["noise"].std() - 1) < 0.05


USE = """<script>
(async () => {
  const wait = () => new Promise((done) => setTimeout(done, 20));
  wish.steps.value = 3; wish.label.value = 5; wish.requestSubmit();
  while (states.length <= 3) await wait();
  const box = $("guess").getBoundingClientRect();
  const at = { clientX: box.left + 1, clientY: box.bottom - 1 };
  $("guess").dispatchEvent(new MouseEvent("click", at));
  const drawn = [$("guess").getAttribute("aria-label"), $("told").textContent];
  $("guess").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  $("step").value = 1; $("step").dispatchEvent(new Event("input"));
  const back = [$("at").value, $("told").textContent, $("maps").hidden];
  const wide = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.found = JSON.stringify([drawn, back, wide]);
})();
</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium here")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_is_used_in_a_browser(site, width, tmp_path):
    page = site / DRAW
    used = page.with_name("used.html")
    used.write_text(html(site, DRAW).replace("</body>", USE + "</body>"), encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
    ]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([*command, used.as_uri()], capture_output=True, text=True)
    used.unlink()
    (found,) = re.findall(r'data-found="(.*?)"', done.stdout)
    drawn, back, wide = json.loads(unescape(found))
    assert drawn[0] == "the network's guess of a 5 at step 3"
    assert drawn[1].startswith("The patch in row 7, column 1 takes most from row ")
    assert (
        back[0] == "1 of 3" and back[1].startswith("The patch in row 7, column 2") and not back[2]
    )
    assert wide <= 0, "the page is wider than the window"


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


@pytest.mark.parametrize("address", [None, "https://github.com/ada/minidit"])
def test_the_readme_of_a_package_index_leads_to_the_repository(address):
    metadata = {"urls": {"Repository": address + "/"}} if address else {}
    hatch_build.Readme(str(ROOT), {}).update(metadata)
    page, own = metadata["readme"]["text"], (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata["readme"]["content-type"] == "text/markdown" and len(own.splitlines()) <= 150
    if address is None:
        assert page == own
        return
    assert f'<img src="{address}/raw/main/data/results/' in page
    assert f'<a href="{address}/blob/main/notebooks/00_quickstart.ipynb"><img' in page
    assert f"({address}/blob/main/LICENSE)" in page and "(https://arxiv.org/abs/2212.09748)" in page
    links = re.findall(r'\]\(([^)]+)|(?:href|src)="([^"]+)"', page)
    assert all("".join(link).startswith("https://") for link in links) and len(links) > 60


def test_halved_latents_name_their_halved_autoencoder(tmp_path, monkeypatch):
    """In a wheel the files have another sha256, by which a network finds its autoencoder."""
    tiny = {"input_size": 4, "in_channels": 1, "hidden_size": 8, "depth": 1, "num_heads": 1}
    model, folder = minidit.DiT(**tiny), tmp_path / "data" / "weights"
    weights.save(model, folder / "stage.safetensors")
    link = {"name": "stage", "sha256": weights.file_sha256(folder / "stage.safetensors")}
    weights.save(model, folder / "net.safetensors", autoencoder=link)
    monkeypatch.setattr(hatch_build, "ROOT", tmp_path)
    for name, content in hatch_build.halves().items():
        (tmp_path / name).write_bytes(content)
    stage, net = tmp_path / "stage.safetensors", tmp_path / "net.safetensors"
    minidit.load(stage)
    minidit.load(net)
    halved = weights.file_sha256(stage)
    assert halved != link["sha256"] == weights.autoencoder_of(folder / net.name)["sha256"]
    assert weights.autoencoder_of(net)["sha256"] == halved
    assert weights.info(net)["autoencoder"]["sha256"] == halved
    assert weights.info(net)["bytes"] == net.stat().st_size


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
