"""What each compared system costs when it is used: time an image and peak memory, for 20 tasks.

Every system of Table 3 embeds the same batch for all tasks at once, in eval mode, in turn with the
others; its time is given as a multiple of the fully shared network's. Peak memory is the rise of
the resident set during that call, in a process that gives back at once what it frees.
"""

import json
import os
import subprocess
import sys

import torch
from common import SIZES, Trainer, data_of, ratios, settings_of
from memory import GIVE_BACK, peak_of

from modlib.experiments import new_network
from modlib.settings import Settings
from modlib.speed import row, side_by_side
from modlib.twenty_attributes import STUDY

SHARED = "fully shared"
SYSTEMS = [name for name in STUDY.rows if not name.startswith(f"{SHARED}, ")]  # as that is, in use


def calls(data_root: str | None) -> dict:
    """A call for each system that embeds one batch of 180 images for 20 tasks."""
    settings = settings_of(data_root)
    trainer = Trainer(settings, data_of(settings, data_root), batches=1, kept=False)
    images_BCHW = trainer.batches[0][0]
    networks = {name: new_network(Settings(**(settings.as_dict() | STUDY.changes(name)))).eval()
                for name in SYSTEMS}
    return {name: lambda network=network: network.embed_all_tasks(images_BCHW)
            for name, network in networks.items()}


def measure(data_root: str | None) -> dict:
    """Median of 7 repeats; memory once."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        seconds = side_by_side(calls(data_root), 7, warm_up=2)
    megabytes = json.loads(subprocess.run(
        [sys.executable, __file__, json.dumps(data_root)], check=True, capture_output=True,
        text=True, env=os.environ | GIVE_BACK).stdout)
    rows = [row(f"in use: time of {name} over fully shared",
                ratios(seconds[name], seconds[SHARED]), f"{SIZES}, in eval mode",
                key=f"in use: {name}")
            for name in SYSTEMS if name != SHARED]
    costs = {name: {"time": 1.0, "megabytes": megabytes[name]} for name in SYSTEMS}
    for one in rows:
        costs[one["key"].removeprefix("in use: ")]["time"] = one["value"]
    return {"rows": rows, "curves": {"systems in use": costs}}


if __name__ == "__main__":
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        print(json.dumps({name: peak_of(call) for name, call in calls(
            json.loads(sys.argv[1])).items()}))
