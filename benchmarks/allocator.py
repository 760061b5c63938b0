"""Keeping freed memory, in large pages, against the allocator's own habit: seconds of a step.

A process either calls `keep_freed_memory` first or not, takes four training steps of 20 tasks
untimed and then times six. glibc's habits cannot be restored within a process, so each repeat is
two processes, one of each kind, every other repeat in the opposite order. Batches are noise.
"""

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from common import SIZES, Trainer, ratios, settings_of
from growth import noise

from modlib.speed import row, side_by_side


def seconds_of_a_step(kept: bool) -> float:
    """The median of six steps in this process."""
    settings = settings_of(None)
    with tempfile.TemporaryDirectory() as folder:
        data = noise(len(settings.tasks), settings.image_size, 1000, Path(folder))
        settings = replace(settings, tasks=data.tasks)
        trainer = Trainer(settings, data, batches=2, kept=kept)
        return median(side_by_side({"step": trainer.step}, 6, warm_up=4)["step"])


def measure(data_root: str | None) -> dict:
    """Median of three repeats."""
    seconds: dict[str, list[float]] = {"kept": [], "plain": []}
    for repeat in range(3):
        for which in sorted(seconds, reverse=bool(repeat % 2)):
            done = subprocess.run([sys.executable, __file__, which], check=True,
                                  capture_output=True, text=True)
            seconds[which].append(float(done.stdout))
    return {"rows": [row("training: freed memory kept, in large pages, over given back, "
                         "steps per second", ratios(seconds["plain"], seconds["kept"]), SIZES)]}


if __name__ == "__main__":
    print(seconds_of_a_step(sys.argv[1] == "kept"))
