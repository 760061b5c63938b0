"""Run the long forms of the tests, and write what they found to book/results/soak.

    python tools/soak.py
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from modlib.committed import all_committed
from modlib.errors import ModlibError
from modlib.machine import git_commit
from modlib.soak import soak_sentence, write_soak

ROOT = Path(__file__).resolve().parents[1]
FILES = tuple(f"tests/test_{name}.py" for name in (  # as a whole, with their long forms
    "faults", "worker_pools", "held_out", "verify", "security", "locks"))
PROPERTIES = "every property test"
RECORDS = "a check of every committed record"
CASES = re.compile(r"(\d+) passing.*?, (\d+) failing")  # as hypothesis tells of each phase
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)  # as pytest sums up


def counted_cases(printed: str) -> int:
    """Random cases that passed or failed, added up over hypothesis' statistics."""
    return sum(int(passing) + int(failing) for passing, failing in CASES.findall(printed))


def what_failed(status: int, printed: str, what: str) -> list[str]:
    """The tests that failed, by pytest's summary; where it names none, that all of it has failed.

    Args:
        status: of pytest: 5, where nothing was collected, has not passed either.
        what: was run.
    """
    return FAILED.findall(printed) or [f"{what} (status {status})"] if status else []


def pytest(*arguments: str) -> tuple[int, str]:
    """Run pytest; what it prints is shown as it comes, and returned with its exit status."""
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = []
    for line in process.stdout:
        print(line, end="", flush=True)
        printed.append(line)
    return process.wait(), "".join(printed)


def checked_records() -> tuple[int, list[str]]:
    """How many committed records were read and checked, and what was refused."""
    try:
        return len(all_committed()), []
    except ModlibError as error:
        return 0, [str(error)]


def main() -> int:
    """Run all parts, write the record, and return 1 where it has not passed."""
    commit, started = git_commit("tests", "tools"), time.perf_counter()
    records, failed = checked_records()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        failed += what_failed(*pytest(*FILES, "--soak", str(path)), "the tests of faults")
        counted = json.loads(path.read_text()) if path.exists() else {}
    status, printed = pytest(
        "-m", "hypothesis", "--hypothesis-profile=soak", "--hypothesis-show-statistics")
    failed += what_failed(status, printed, PROPERTIES)
    figures = {"kills": 0, "full_disks": 0} | counted | {
        "cases": counted_cases(printed), "records": records}
    record = write_soak(figures, [*FILES, PROPERTIES, RECORDS], failed,
                        time.perf_counter() - started, commit)
    print(soak_sentence())
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
