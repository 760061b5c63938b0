"""What importing modlib adds to importing torch, in seconds.

A new interpreter imports torch, then every module that a training run needs
(`modlib.experiments`), and tells how long the second took. Once untimed, to fill the disk's cache.
"""

import subprocess
import sys

from modlib.speed import row

CODE = ("import torch, time; started = time.perf_counter(); import modlib.experiments; "
        "print(time.perf_counter() - started)")


def measure(data_root: str | None) -> dict:
    """Median of 5 repeats."""
    seconds = [float(subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True,
                                    text=True).stdout) for _ in range(6)]
    return {"rows": [row("start-up: importing modlib after torch", seconds[1:],
                         "every module that a training run needs", at_most=0.3, unit="s")]}
