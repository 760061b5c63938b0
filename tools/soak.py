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

from modlib.machine import git_commit
from modlib.soak import soak_sentence, write_soak

ROOT = Path(__file__).resolve().parents[1]
CASES = re.compile(r"(\d+) passing.*?, (\d+) failing")  # as hypothesis tells of each phase


def counted_cases(printed: str) -> int:
    """Random cases that passed or failed, added up over hypothesis' statistics."""
    return sum(int(passing) + int(failing) for passing, failing in CASES.findall(printed))


def pytest(*arguments: str) -> tuple[int, str]:
    """Run pytest; what it prints is shown as it comes, and returned with its exit status."""
    process = subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = []
    for line in process.stdout:
        print(line, end="", flush=True)
        printed.append(line)
    return process.wait(), "".join(printed)


def main() -> int:
    """Run both parts, write the record, and return 1 where a test failed."""
    commit, started = git_commit("tests", "tools"), time.perf_counter()
    with TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        faults, _ = pytest("-m", "soak", "--soak", str(figures))
        found = json.loads(figures.read_text()) if figures.exists() else {}
    random_cases, printed = pytest(
        "-m", "hypothesis", "--hypothesis-profile=soak", "--hypothesis-show-statistics")
    passed = faults == 0 and random_cases == 0  # not 5 either: none was collected
    write_soak(found.get("kills", 0), found.get("full_disks", 0), counted_cases(printed), passed,
               time.perf_counter() - started, commit)
    print(soak_sentence())
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
