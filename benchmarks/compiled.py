"""torch.compile against eager execution: seconds of a training step, and the warm-up.

The same network, `shared` batching, 20 tasks. The warm-up is the first three compiled steps, in
seconds. Each repeat then times one step of each, in turn. Without a C++ compiler there is nothing
to measure, and the table says so by leaving the rows out.
"""

import shutil
import time

from common import SIZES, Trainer, data_of, ratios, settings_of

from modlib.speed import row, side_by_side


def measure(data_root: str | None) -> dict:
    """Median of 8 repeats."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        return {"rows": []}
    data = data_of(settings_of(data_root), data_root)
    eager, compiled = (Trainer(settings_of(data_root, compiled=value), data)
                       for value in (False, True))
    started = time.perf_counter()
    for _ in range(3):
        compiled.step()
    warm_up = time.perf_counter() - started
    seconds = side_by_side({"eager": eager.step, "compiled": compiled.step}, 8, warm_up=3)
    return {"rows": [
        row("training: compiled by torch.compile over eager, steps per second",
            ratios(seconds["eager"], seconds["compiled"]), SIZES),
        row("training: the first three compiled steps", [warm_up], SIZES, unit="s")]}
