"""Every public name says what it is, and whatever takes tensors says their shapes."""

import ast
import re
from pathlib import Path

import pytest

import minidit

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "minidit").rglob("*.py"))
PUBLIC = [path for path in MODULES if path.stem == "__init__" or not path.stem.startswith("_")]

FEWEST_WORDS = 3
# (b, c, h, w), (b,), or in words: a scalar, any shape, the shape of something, a number, one image
SHAPE = re.compile(r"\([^()]*,[^()]*\)|\bscalars?\b|\bshapes?\b|\bnumbers?\b")
SHAPELESS = {
    "train.Run.mean_loss",  # of what `Diffusion.loss` takes, and a number comes out
    "solvers.dpm.Walk.step",  # the walk's class says what x is
    # tensors of a state dict, each of another shape
    "weights.official_dit.outline",
    "weights.official_uvit.outline",
    "weights.official.to_ours",
    "weights.official.to_official",
    "weights.diffusers.official_names",
    "weights.reading.state_dict",
    "weights.reading.looks_like",
    "latents.official_ldm.outline",
}


def public(tree, prefix=""):
    """(name, node) of every public class, function and method, not of what is inside functions."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def takes_tensors(function):
    """Tell whether a function is annotated to take a tensor, and not only a function of tensors."""
    arguments = [*function.args.args, *function.args.kwonlyargs]
    annotations = [ast.unparse(a.annotation) for a in arguments if a.annotation]
    return any(re.search(r"\bTensor\b", a.partition("Callable")[0]) for a in annotations)


def faults(module, source):
    """Sentences on public names of a module that say too little."""
    for name, node in public(ast.parse(source)):
        text = ast.get_docstring(node) or ""
        if len(text.split()) < FEWEST_WORDS:
            yield f"{module}.{name} says {text!r}: too little"
        elif isinstance(node, ast.FunctionDef) and takes_tensors(node):
            if not SHAPE.search(text) and f"{module}.{name}" not in SHAPELESS:
                yield f"{module}.{name} takes tensors, and names no shape: {text!r}"


def module_name(path):
    """dit for minidit/dit.py, bench.peak for minidit/bench/peak.py."""
    return ".".join(path.relative_to(ROOT / "minidit").with_suffix("").parts)


@pytest.mark.parametrize("path", PUBLIC, ids=module_name)
def test_public_names_say_what_they_are(path):
    assert list(faults(module_name(path), path.read_text(encoding="utf-8"))) == []


def test_what_the_package_exports_says_what_it_is():
    exported = {k: v for k, v in vars(minidit).items() if not k.startswith("_") and callable(v)}
    assert {"DiT", "UViT", "Diffusion", "ddim", "fit", "load"} <= exported.keys()
    for name, value in exported.items():
        assert len((value.__doc__ or "").split()) >= FEWEST_WORDS, name


def test_the_exceptions_are_still_there():
    names = {
        f"{module_name(path)}.{name}"
        for path in PUBLIC
        for name, _ in public(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert SHAPELESS <= names


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(x): pass", "says ''"),
        ("class A:\n    'Something that is.'\n    def g(self): 'To do.'", "A.g says"),
        ("def f(x: Tensor) -> Tensor:\n    'Twice as much of it.'", "names no shape"),
        ("def f(*, x: Tensor | None = None):\n    'Twice as much of it.'", "names no shape"),
    ],
)
def test_too_little_is_noticed(source, words):
    (fault,) = faults("m", source)
    assert words in fault


@pytest.mark.parametrize(
    "source",
    [
        "def _f(x): pass",
        "def f(x: Tensor) -> Tensor:\n    'Twice (b, d), as it is.'",
        "def f(x: Tensor) -> Tensor:\n    'The mean, a scalar.'",
        "def f(model: Callable[[Tensor], Tensor]):\n    'Call it once more.'",
        "def f(x):\n    'More of it.'\n    def inner(y): pass",
    ],
)
def test_enough_is_enough(source):
    assert list(faults("m", source)) == []
