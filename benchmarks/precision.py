"""Training in bfloat16 against float32: seconds of a step.

The same network on the same batches, `shared` batching, 20 tasks. bfloat16 means autocast: weights
and losses stay float32. Each repeat times one step of each, in turn. What it does to accuracy is
another question: the page answers it from training runs over three seeds. The target holds for a
CPU with AMX, Intel's instructions for products of bfloat16 matrices; elsewhere there is none.
"""

import torch
from common import SIZES, Trainer, data_of, ratios, settings_of

from modlib.speed import row, side_by_side


def measure(data_root: str | None) -> dict:
    """Median of 25 repeats."""
    data = data_of(settings_of(data_root), data_root)
    trainers = {name: Trainer(settings_of(data_root, precision=name), data)
                for name in ("bfloat16", "float32")}
    seconds = side_by_side(
        {name: trainer.step for name, trainer in trainers.items()}, 25, warm_up=5)
    return {"rows": [row("training: bfloat16 over float32, steps per second",
                         ratios(seconds["float32"], seconds["bfloat16"]),
                         SIZES.replace(", bfloat16", ""),
                         at_least=2 if torch.cpu._is_amx_tile_supported() else None)]}
