"""Peak memory of a call: the resident set's high-water mark, by Linux's /proc."""

from collections.abc import Callable
from pathlib import Path

# For a process whose peaks are wanted: what is freed is given back at once.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
STATUS = Path("/proc/self/status")


def resident() -> dict[str, float]:
    """MB of the resident set: VmRSS now, VmHWM at its highest, RssAnon and RssFile."""
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1e3 for words in lines if words[-1] == "kB"}


def peak_of(call: Callable[[], object]) -> float:
    """By how many MB a call raises the resident set above what it is now, at its highest."""
    before = resident()["VmRSS"]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from now
    call()
    return resident()["VmHWM"] - before
