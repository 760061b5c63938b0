"""All tasks of a batch against one task, for 20 tasks and for 7, and against 20 separate passes.

The network in eval mode embeds one batch: for all tasks at once (`embed_all_tasks`: what no task
changes is computed once), for one task, and for each task in a pass of its own. Each repeat times
all three, in turn.
"""

from dataclasses import replace

import torch
from common import SIZES, TASKS, Trainer, data_of, ratios, settings_of

from modlib.experiments import new_network
from modlib.speed import row, side_by_side


def measure(data_root: str | None) -> dict:
    """Median of 15 repeats."""
    settings = settings_of(data_root)
    trainer = Trainer(settings, data_of(settings, data_root), batches=1)
    network, images_BCHW = trainer.network.eval(), trainer.batches[0][0]
    seven = new_network(replace(settings, tasks=TASKS[:7])).eval()

    def embed(task: int) -> None:
        network(images_BCHW, torch.full((len(images_BCHW),), task))

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        seconds = side_by_side({
            "all": lambda: network.embed_all_tasks(images_BCHW),
            "seven": lambda: seven.embed_all_tasks(images_BCHW),
            "one": lambda: embed(0),
            "each": lambda: [embed(task) for task in range(len(TASKS))],
        }, 15, warm_up=3)
    return {"rows": [
        row("inference: the time of all 20 tasks over that of one",
            ratios(seconds["all"], seconds["one"]), SIZES, at_most=1.5),
        row("inference: the time of all 7 tasks over that of one",
            ratios(seconds["seven"], seconds["one"]), SIZES.replace("20 tasks", "7 tasks")),
        row("inference: 20 separate passes over all 20 tasks at once",
            ratios(seconds["each"], seconds["all"]), SIZES, at_least=12)]}
