"""A course to hand out: python3 examples/teaching/course.py OUT_DIR

Writes the folder `student`, the project with its solutions taken out, and `grading.zip`, the tests
of `examples/grading` with the package, as Gradescope takes it. Standard library only.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What is copied, as patterns; notebook 16 reads the golden files.
PACKAGE = ["minidit/**/*", "pyproject.toml", "LICENSE", "notebooks/pages/hatch_build.py"]
STUDENT = [*PACKAGE, "tasks.py", "constraints.txt", "environment.yml", "data/README.md"]
STUDENT += ["data/weights/*", "data/results/*", "notebooks/*.ipynb", "notebooks/FAQ.md"]
STUDENT += ["tests/golden/**/*"]
README = """\
# minidit: the notebooks of a course

You need Python 3.10 to 3.13. This sets up an environment, which takes a few minutes once, and opens
the notebooks (on Windows write `py` instead of `python3`):

```bash
python3 tasks.py lab
```

Begin with `00_quickstart.ipynb`. Exercises are cells that raise `NotImplementedError`: write what
is missing, run the cell, and it says whether you are right, or what probably happened.
"""

SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\s*", re.DOTALL)
STUB = re.compile(r'raise NotImplementedError\("exercise (\d+)"\)')
EXERCISE = re.compile(r"\*\*Exercise (\d+)\*\* \((easy|medium|hard), (\d+) minutes\)")
OPEN = re.compile(r"\*\*An open task\*\* \((.+?)\)")


def main(arguments=None):
    """Write the course, or print the table of exercises; 2 if it can't be written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("out", type=Path, nargs="?", metavar="OUT_DIR", help="new, or empty")
    asked.add_argument("--table", action="store_true", help="print the exercises by difficulty")
    args = parser.parse_args(arguments)
    if args.table:
        sys.stdout.reconfigure(encoding="utf-8")
        print(table())
        return 0
    try:
        write(args.out.resolve())
    except OSError as error:
        print(f"course.py: {error}", file=sys.stderr)
        return 2
    print(f"written: {args.out / 'student'} and {args.out / 'grading.zip'}")
    return 0


def write(out):
    """Write both parts into `out`, whole or not at all."""
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} isn't empty; name a new folder or an empty one")
    copied = {path: path.relative_to(ROOT) for path in files(*STUDENT)}  # before `out` is made
    graded = {path: Path("package", path.relative_to(ROOT)) for path in files(*PACKAGE)}
    graded |= {ROOT / "README.md": Path("package/README.md")}
    graded |= {path: Path(path.name) for path in files("examples/grading/*")}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as folder:
        student, bundle = Path(folder, "student"), Path(folder, "grading.zip")
        for path, name in copied.items():
            (student / name).parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".ipynb":
                text = without_solutions(path.read_text(encoding="utf-8"))
                (student / name).write_text(text, encoding="utf-8", newline="\n")
            else:
                shutil.copy(path, student / name)
        (student / "README.md").write_text(README, encoding="utf-8", newline="\n")
        with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path, name in graded.items():
                archive.write(path, name)
        for path in (bundle, student):
            path.rename(out / path.name)


def files(*patterns):
    """The files of the project that fit, without what Python leaves beside them."""
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def without_solutions(text):
    """A notebook without its solutions, and with its exercises not yet run; other outputs stay."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and STUB.search(source):
            cell.update(outputs=[], execution_count=None)
        elif cell["cell_type"] == "markdown" and SOLUTION.search(source):
            cell["source"] = SOLUTION.sub("", source).strip().splitlines(keepends=True)
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["source"]]
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


def table():
    """The exercises of all notebooks, as README.md shows them: a column for each difficulty."""
    lines = ["| notebook | easy | medium | hard | open task |", "|---|---|---|---|---|"]
    for path in files("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
        names = {  # of an exercise: the function or class that raises
            number[1]: re.findall(r"^(?:def|class) (?:my_)?(\w+)", text[: number.start()], re.M)[-1]
            for number in STUB.finditer(text)
        }
        columns = {"easy": [], "medium": [], "hard": []}
        for number, level, minutes in EXERCISE.findall(text):
            columns[level].append(f"{number} `{names[number]}` {minutes} min")
        shown = ["<br>".join(column) or "–" for column in columns.values()]
        first = f"[{path.stem[:2]}](../../notebooks/{path.name})"
        lines.append(" | ".join(["| " + first, *shown, OPEN.search(text)[1] + " |"]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
