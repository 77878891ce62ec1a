"""The project as a whole: what it installs, what a wheel holds, and which module imports which."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import minidit

try:
    import tomllib
except ImportError:  # Python 3.10; pytest needs tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "data" / "weights"
IN_A_CLONE = {"uvit-mnist-fine", "dit-mnist-fine-modern"}  # weights that a wheel has no room for
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def module_name(path):
    """dit for minidit/dit.py, check.skips for minidit/check/skips.py, check for its __init__."""
    parts = path.relative_to(ROOT / "minidit").with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "minidit").rglob("*.py"))}

# An import may point down or stay on its floor, never up, and the core (0 to 2) imports no folder.
# A folder's modules live on the folder's floor.
FLOORS = {
    0: "patches embed attention schedule _validate",
    1: "blocks diffusion",
    2: "dit uvit sampling train",
    3: "solvers conditions weights",
    4: "data latents evaluate training",
    5: "__init__ plot check lab",
    6: "cli",
    7: "__main__",  # uses the package as its readers do
}


# --- what is installed ----------------------------------------------------------------------------


def pins(python):
    """The versions in constraints.txt that hold for one Python, by package name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": python}
    found = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in found, f"{requirement.name} is pinned twice for {python}"
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{requirement} is no pin"
            found[requirement.name] = specifier.version
    return found


def conda_environment():
    """The entries of environment.yml: (conda packages, lines of the pip section)."""
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    entries = lines[lines.index("dependencies:") + 1 :]
    conda = [line[4:] for line in entries if line.startswith("  - ") and line != "  - pip:"]
    return conda, [line[6:] for line in entries if line.startswith("    - ")]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_to_a_version_it_allows(python):
    dev = PROJECT["optional-dependencies"]["dev"]
    pinned = pins(python)
    for requirement in map(Requirement, PROJECT["dependencies"] + dev):
        assert requirement.name in pinned, f"{requirement.name} is missing in constraints.txt"
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_torch_is_pinned():
    assert {pins(python)["torch"] for python in PYTHONS} == {"2.13.0"}


def test_conda_environment_equals_the_pip_route():
    conda, pip = conda_environment()
    (python,) = [entry.partition("=")[2] for entry in conda if entry.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert set(conda) == {f"python={python}", "pip"}, "everything else comes through pip"
    assert pip == ["-c constraints.txt", f"torch=={pins(python)['torch']}", "-e .[dev]"]


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [PROJECT["version"]]
    assert PROJECT["version"] == minidit.__version__
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="a bash script")
def test_the_readme_test_command_is_what_ci_runs(tmp_path):
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    (tmp_path / "tasks.py").write_text(
        "import sys; print('called with', sys.argv[1:]); sys.exit(7)"
    )
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (
        7,
        ["+ python3 tasks.py test", "called with ['test']"],
    )

    (tmp_path / "README.md").write_text(
        "Call `python3 tasks.py test`.\n```\npython3 tasks.py demo\n```\n"
    )
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no fenced block" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, unpacked as an installer would, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-build-isolation", "--no-deps"]
    done = subprocess.run([*command, "-w", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("minidit-*.whl")
    assert path.stat().st_size < 35e6, "halved weights fit: hatch_build.py"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_package_and_its_weights_only(wheel):
    names = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT).as_posix() for path in MODULES.values()}
    expected |= {"minidit/data/glyphs.png", "minidit/data/imagenet.txt", "minidit/py.typed"}
    for folder, kinds in {"weights": ("safetensors", "json"), "results": ("json", "csv")}.items():
        for kind in kinds:
            for path in (ROOT / "data" / folder).glob(f"*.{kind}"):
                left = path.stem.startswith(("bench", "growth")) or path.stem in IN_A_CLONE
                if not left and "-rates" not in path.stem:
                    expected.add(f"minidit/_shipped/{folder}/{path.name}")
    stored, copy = (
        json.loads((folder / "claims.json").read_text("utf-8"))
        for folder in (ROOT / "data" / "results", wheel / "minidit/_shipped/results")
    )
    assert stored == copy
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_wheel_works_outside_the_clone(wheel, tmp_path):
    names = sorted({path.stem for path in WEIGHTS.glob("*.safetensors")} - IN_A_CLONE)
    program = (
        "import sys, minidit\n"
        "print(minidit.__file__)\n"
        "for name in sys.argv[1:]:\n"
        "    minidit.load(name)\n"
        "    print('loaded', name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert Path(first).resolve().is_relative_to(wheel.resolve())
    assert rest == [f"loaded {name}" for name in names]


def test_the_wheel_has_the_weights_in_half_precision(wheel):
    folder = wheel / "minidit" / "_shipped" / "weights"
    name = "dit-mnist-fine.safetensors"
    (half, process), (own, _) = (minidit.load(at / name) for at in (folder, WEIGHTS))
    for key, value in own.state_dict().items():  # ten bits of eleven, down to the smallest numbers
        assert torch.allclose(value, half.state_dict()[key], rtol=2**-10, atol=2**-23), key
    noise, labels = torch.randn(4, 1, 28, 28, generator=torch.manual_seed(0)), torch.arange(4)
    one, other = (
        minidit.sample(minidit.ddim(model, process, noise, labels, steps=8))
        for model in (own, half)
    )
    assert 0 < (one - other).abs().mean() < 1 / 127.5, "less than a grey level"


# --- which module imports which -------------------------------------------------------------------


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=path.name)


def floor_of(name):
    """The floor a module lives on."""
    for floor, names in FLOORS.items():
        if name.split(".")[0] in names.split():
            return floor
    raise AssertionError(f"{name}.py has no floor: give it one in FLOORS")


def imports(tree, modules):
    """The package's own modules that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            base = f"minidit.{base}".rstrip(".") if node.level else base
            # `from minidit import patches` names a module, `from minidit import DiT` does not
            paths = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in paths:
            first, *rest = path.split(".")
            if first == "minidit":
                names = [".".join(rest[: n + 1]) for n in reversed(range(len(rest)))]
                found.add(next((name for name in names if name in modules), "__init__"))
    return found


def faults(graph):
    """Sentences on every arrow that runs up or sideways in a circle."""
    found = []
    for name, targets in graph.items():
        for target in sorted(targets):
            if floor_of(target) > floor_of(name):
                found.append(f"{name} (floor {floor_of(name)}) imports {target}, which is above it")
    remaining = dict(graph)
    while True:  # take away whatever imports nothing that is left; a circle stays
        free = [name for name, targets in remaining.items() if not targets & remaining.keys()]
        if not free:
            break
        for name in free:
            del remaining[name]
    if remaining:
        found.append("a circle among " + ", ".join(sorted(remaining)))
    return found


def test_imports_name_the_package():
    """Relative ones would mean another module in a folder than `imports` believes."""
    for name, path in MODULES.items():
        nodes = (node for node in ast.walk(parse(path)) if isinstance(node, ast.ImportFrom))
        assert not [node.lineno for node in nodes if node.level], name


def test_imports_run_down():
    assert faults({name: imports(parse(path), MODULES) for name, path in MODULES.items()}) == []


@pytest.mark.parametrize(
    ("graph", "fault"),
    [
        ({"patches": {"blocks"}, "blocks": set()}, "patches (floor 0) imports blocks"),
        ({"train": {"data"}, "data": set()}, "train (floor 2) imports data"),
        ({"dit": {"__init__"}, "__init__": {"dit"}}, "dit (floor 2) imports __init__"),
        ({"dit": {"uvit"}, "uvit": {"dit"}}, "a circle among dit, uvit"),
        ({"check.skips": {"cli.growth"}, "cli.growth": set()}, "imports cli.growth"),
        ({"embed": {"patches"}, "patches": {"embed"}}, "a circle among embed, patches"),
    ],
)
def test_a_wrong_arrow_is_found(graph, fault):
    assert any(fault in sentence for sentence in faults(graph))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from minidit.dit import DiT", {"dit"}),
        ("from .dit import DiT", {"dit"}),
        ("from . import dit", {"dit"}),
        ("from minidit import dit", {"dit"}),
        ("from minidit.check import skips", {"check.skips"}),
        ("from minidit.check.skips import u_walk", {"check.skips"}),
        ("from minidit.check import patchify", {"check"}),
        ("import minidit.dit", {"dit"}),
        ("def f():\n    from minidit import DiT", {"__init__"}),
        ("import minidit", {"__init__"}),
        ("import torch\nfrom torch.nn import functional", set()),
    ],
)
def test_every_form_of_import_is_seen(source, found):
    assert imports(ast.parse(source), {"dit", "check", "check.skips"}) == found


# --- rules for every module -----------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_docstring(name):
    assert ast.get_docstring(parse(MODULES[name])), f"{name}.py says nothing about itself"


def dangers(tree):
    """Sentences on calls that print, or that could run code from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(re.match(r"c?pickle\b|dill\b|joblib\b", name) for name in names):
                found.append(f"line {node.lineno} imports pickle")
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if call == "print":
                found.append(f"line {node.lineno} prints")
            if call == "torch.load" and given.get("weights_only") != "True":
                found.append(f"line {node.lineno} calls torch.load without weights_only=True")
            if given.get("allow_pickle", "False") != "False":
                found.append(f"line {node.lineno} allows pickles")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_module_neither_prints_nor_unpickles(name):
    found = dangers(parse(MODULES[name]))
    if name.split(".")[0] == "cli":
        found = [sentence for sentence in found if not sentence.endswith("prints")]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "print('hello')",
        "import pickle",
        "from pickle import loads",
        "torch.load('a.pt')",
        "torch.load('a.pt', weights_only=False)",
        "np.load('a.npy', allow_pickle=True)",
    ],
)
def test_a_danger_is_found(source):
    assert dangers(ast.parse(source))


def test_nothing_strange_lies_at_the_top_of_the_tree():
    """What a command wrote there while it was tried is no part of the project."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no clone")
    files = "CHANGELOG CONTRIBUTING README".split()
    known = {f"{name}.md" for name in files} | set("data examples minidit notebooks tests".split())
    known |= set("CITATION.cff LICENSE conftest.py constraints.txt environment.yml".split())
    known |= {"pyproject.toml", "tasks.py"}
    top = {path.split("/")[0] for path in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} == known
