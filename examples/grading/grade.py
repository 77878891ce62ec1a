"""Points for a submission: python grade.py homework.py --results results.json

Copy this folder and change `test_submission.py`. A submission runs in a process of its own, with a
time limit; this one writes the results, and what was not reported to it counts zero. On Linux the
system closes the network (a namespace, by `unshare`); elsewhere only Python's own sockets are
closed, and this is said. The tests share the submission's process: mistakes are caught, whoever
means to cheat is not, so run it on a machine that holds nothing else.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(arguments=None):
    """Grade one file; 0 if it gets all points, 1 if not, 2 if it can't be graded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("submission", type=Path, help="the student's file")
    parser.add_argument("--results", type=Path, help="write the points to this JSON file")
    parser.add_argument("--seconds", type=float, default=300, help="at most (%(default)g)")
    parser.add_argument("--no-hints", action="store_true", help="leave out what is wrong, and why")
    args = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="replace")  # whatever the terminal can show
    try:
        if args.results is not None:
            args.results.unlink(missing_ok=True)  # so that no older results are taken for these
        source = args.submission.read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            tests, ending = run(Path(folder), source, args)
        if not tests:
            why = ending.strip() or "what is wrong is said above"
            raise OSError(f"the tests in {HERE} can't be collected: {why}")
        score, most = (sum(test[key] for test in tests) for key in ("score", "max_score"))
        print(f"{ending}points: {score} of {most}")
        if args.results is not None:
            text = json.dumps({"score": score, "tests": tests}, indent=1)  # Gradescope's keys
            args.results.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"grade.py: {error}", file=sys.stderr)
        return 2
    return 0 if score == most else 1


def run(folder, source, args):
    """The results of all tests, and a sentence on an end before the last of them."""
    handed_in, report = folder / "handed in", folder / "report.jsonl"
    handed_in.mkdir()  # alone: nothing that lies beside the file is imported or run
    (handed_in / args.submission.name).write_bytes(source)
    told = {
        "GRADING_SUBMISSION": str(handed_in / args.submission.name),
        "GRADING_REPORT": str(report),
        "GRADING_HINTS": "" if args.no_hints else "1",
        "PYTHONIOENCODING": "utf-8",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)]
    unshare = [shutil.which("unshare") or "unshare", "--map-root-user", "--net"]
    unshare += ["--pid", "--fork", "--kill-child"]  # and what it leaves running ends with it
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
        command = [*unshare, *command]
    except (OSError, subprocess.CalledProcessError):
        print("grade.py: this system doesn't close the network; only Python's sockets are closed")
    ending, out = "", folder / "out.txt"
    with open(out, "wb") as file:
        started = subprocess.Popen(
            command,
            cwd=HERE,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            started.wait(args.seconds)
        except subprocess.TimeoutExpired:
            ending = f"the submission took more than {args.seconds:g} seconds"
        finally:  # whatever it has started ends with it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL) if os.name != "nt" else started.kill()
            started.wait()
    with open(out, encoding="utf-8", errors="replace") as file:
        print(file.read(100_000))
    lines = report.read_text("utf-8").splitlines() if report.exists() else ["{}"]
    tests = json.loads(lines[0])  # {id: test}, noted before the submission was imported
    given = {}
    for line in lines[1:]:
        try:
            key, score, output = json.loads(line)
            given[key] = min(max(score, 0), tests[key]["max_score"]), str(output)
        except (ValueError, TypeError, KeyError):
            pass  # half a line, by a process that was killed
    if not ending and len(given) < len(tests):
        ending = "the submission ended before its tests did"
    for key, test in tests.items():
        test["score"], test["output"] = given.get(key, (0, ending))
    return list(tests.values()), f"{ending}\n" if ending else ""


if __name__ == "__main__":
    sys.exit(main())
