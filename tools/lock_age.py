"""Say when requirements.lock was last resolved, and how to ask which pins have known faults.

    .venv/bin/python tools/lock_age.py

Which pins have known faults changes from day to day and is known on a network alone; so this says
how old the answer may be, and the command that asks.
"""

import subprocess
from datetime import date
from pathlib import Path

from modlib.results import project_root

AUDIT = "pipx run pip-audit --require-hashes -r requirements.lock"


def lock_date(root: Path) -> date | None:
    """When the lock was last committed; None where git does not know it, as in a shallow clone."""
    try:
        shallow = subprocess.run(["git", "-C", str(root), "rev-parse", "--is-shallow-repository"],
                                 capture_output=True, text=True)
        if shallow.stdout.strip() != "false":
            return None
        done = subprocess.run(["git", "-C", str(root), "log", "-1", "--format=%cs", "--",
                               "requirements.lock"], capture_output=True, text=True)
    except OSError:  # there is no git
        return None
    return date.fromisoformat(done.stdout.strip()) if done.stdout.strip() else None


def age(resolved: date | None, today: date) -> str:
    """When the lock was resolved, and how long ago, for people."""
    when = ("at a time that git does not know" if resolved is None else
            f"on {resolved}, {(today - resolved).days} days ago")
    return f"requirements.lock was resolved {when}."


def statement(resolved: date | None, today: date) -> str:
    """The date, the age, and the command, for people."""
    return f"{age(resolved, today)} With a network, ask for known faults: {AUDIT}"


if __name__ == "__main__":
    print(statement(lock_date(project_root()), date.today()))
