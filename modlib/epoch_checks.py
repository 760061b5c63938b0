"""What the measures of a record's epochs can be; see :mod:`modlib.record_checks`.

The counts behind a UCR (Zhao et al., ECCV 2018, section 3.1) add up to the probes; epochs are
numbered from 1; each has the measures of its tasks.
"""

from collections.abc import Mapping
from typing import Any

from modlib.record_fields import (
    check_number,
    check_pair,
    check_shares,
    check_sign_counts,
    check_whole,
    entry,
    refuse,
)

COSINE_LIMIT = 1.001  # what rounding in float32 may make of 1
SHARES = ("accuracy", "auc")  # by task, of each split
SIGNS = ("positive", "negative", "zero")


def check_epochs(record: Mapping[str, Any], epochs: list, tasks: list) -> None:
    """Refuse epochs that are not as many as the settings say, or that hold what cannot be.

    Raises:
        ModlibError: with the place within the record, what is there and what is allowed.
    """
    wanted = record["settings"].get("epochs")
    if len(epochs) != wanted:
        refuse(record, "epochs", f"{len(epochs)} of them", f"{wanted}, as the settings say")
    for n, epoch in enumerate(epochs):
        where = f"epochs[{n}]"
        if not isinstance(epoch, dict):
            refuse(record, where, epoch, "an epoch's measures")
        if epoch.get("epoch") != n + 1:
            refuse(record, f"{where}.epoch", epoch.get("epoch"), str(n + 1))
        for measure in SHARES:
            for split in ("train", "valid"):
                check_shares(record, f"{where}.{split}_{measure}",
                             epoch.get(f"{split}_{measure}"), tasks)
        losses = entry(epoch, "task_losses", dict, record, f"{where}.", {})
        for task, loss in (("loss", epoch.get("loss", 0)), *losses.items()):
            check_number(record, f"{where}.{'' if task == 'loss' else 'task_losses.'}{task}", loss,
                         0)
        for task, weight in entry(epoch, "task_weights", dict, record, f"{where}.", {}).items():
            check_number(record, f"{where}.task_weights.{task}", weight)
        for measure, low in (("largest_weight", 0), ("cosine_to_mean", -1), ("tasks_uphill", 0)):
            if measure in epoch:
                check_number(record, f"{where}.{measure}", epoch[measure], low, 1)
        if "images" in epoch:
            check_whole(record, f"{where}.images", epoch["images"], 1)
        if "seconds" in epoch:
            check_number(record, f"{where}.seconds", epoch["seconds"], above=0)
        _check_ucr(record, where, epoch, tasks)


def _check_ucr(record: Mapping[str, Any], where: str, epoch: Mapping[str, Any], tasks) -> None:
    pairs = entry(epoch, "ucr", list, record, f"{where}.", [])
    if not pairs:
        return
    probes = epoch.get("ucr_batches")
    check_whole(record, f"{where}.ucr_batches", probes, 1)
    for n, pair in enumerate(pairs):
        here = f"{where}.ucr[{n}]"
        check_pair(record, here, pair, tasks)
        for sign in SIGNS:
            check_whole(record, f"{here}.{sign}", pair.get(sign), 0)
        if sum(pair[sign] for sign in SIGNS) != probes:
            refuse(record, here, [pair[sign] for sign in SIGNS], f"a sum of {probes}, the probes")
        check_number(record, f"{here}.mean_cosine", pair.get("mean_cosine", 0),
                     -COSINE_LIMIT, COSINE_LIMIT)
    if len({frozenset(pair["tasks"]) for pair in pairs}) != len(pairs):
        refuse(record, f"{where}.ucr", f"{len(pairs)} pairs", "each pair of tasks once")
    if "ucr_stages" in epoch:
        by_stage = entry(epoch, "ucr_stages", dict, record, f"{where}.")
        stages = entry(by_stage, "stages", list, record, f"{where}.ucr_stages.")
        check_sign_counts(record, f"{where}.ucr_stages.counts", by_stage.get("counts"),
                          (2, len(stages), len(tasks), len(tasks)), probes)
