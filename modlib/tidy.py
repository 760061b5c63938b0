"""All records in one tidy table, on the screen or as CSV: ``python -m modlib.tidy``."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modlib.ablations import ucr_by_stage
from modlib.arrays import from_json
from modlib.errors import ModlibError
from modlib.record_checks import check_record
from modlib.results import pair_ucr, read_record, resolve
from modlib.speed import read_benchmark
from modlib.whole_files import written_whole

OF_TASKS = ("valid_accuracy", "valid_auc", "train_accuracy", "task_losses", "task_weights")
OF_ALL = ("loss", "largest_weight", "cosine_to_mean", "tasks_uphill")  # of the last epoch, both
TIDY = ["study", "profile", "system", "seed", "changed", "task", "measure", "value", "record"]


def tidy_table(folder: str | Path = "book/results") -> pd.DataFrame:
    """The measurements of every finished run below a folder: one a line.

    Those of the test split, of the network, of time, of updates over all epochs, and of training
    and validation after the last epoch. The rest is in the records alone: losses and accuracies of
    the epochs before, single answers, scales, maps, layers, branches and the like.

    Returns:
        columns study, profile, system, seed, changed (the settings that tell this run from others
        of its study and profile, as JSON; of a row of the benchmark its unit), task (or pair of
        tasks with "/" between; empty where it is of the whole run), measure, value and record.
        Shares are from 0 to 1. The benchmark's numbers are as its record has them: accuracies in
        %, times in seconds or in multiples, memory in MB.

    Raises:
        ModlibError: there is no such folder, or a record in it cannot be read or holds a figure
            that cannot be.
    """
    root = resolve(folder)
    if not root.is_dir():
        raise ModlibError(f"there is no folder {str(folder)!r}; give one that holds records")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(root.rglob("*.json")):
        if "-seed" in path.stem:  # the benchmark's record is not of a run
            record = read_record(path)
            check_record(record)
            study = path.parent.relative_to(root).as_posix()
            groups.setdefault((study, record["settings"]["profile"]), []).append(record)
    lines = []
    for (study, profile), records in groups.items():
        varied = {key for key in records[0]["settings"]
                  if len({json.dumps(one["settings"].get(key)) for one in records}) > 1}
        for record in records:
            settings = record["settings"]
            about = {"study": study, "profile": profile, "system": settings["system"],
                     "seed": settings["seed"], "record": record["name"],
                     "changed": json.dumps({key: settings[key] for key in settings
                                            if key in varied - {"system", "seed"}})}
            lines += [about | {"task": task, "measure": measure, "value": value}
                      for task, measure, value in _measurements(record)]
    return pd.DataFrame([*lines, *_benchmark(root)], columns=TIDY)


def time_table(folder: str | Path = "book/results") -> pd.DataFrame:
    """How long the runs of each profile took that trained on CPU cores, for people.

    Those of every row and seed that was run, by the clock, two at a time on two cores.
    """
    minutes: dict[str, list[float]] = {}
    for path in sorted(resolve(folder).rglob("*-seed*.json")):
        record = read_record(path)
        if record["run"]["device"].startswith("cpu"):
            minutes.setdefault(record["settings"]["profile"], []).append(
                record["run"]["training_seconds"] / 60)
    return pd.DataFrame([
        {"settings": profile, "runs": len(some), "minutes a run": f"{np.median(some):.0f}",
         "hours in all": f"{sum(some) / 60 / 2:.1f}"}
        for profile, some in sorted(minutes.items()) if np.median(some) >= 1],
        columns=["settings", "runs", "minutes a run", "hours in all"]).set_index("settings")


def _benchmark(root: Path) -> Iterator[dict[str, Any]]:
    """The benchmark's numbers, which are of no run.

    Of its rows the median over repeats, its unit, and where there are several the least and the
    largest; of its curves every point.
    """
    benchmark = read_benchmark(root)
    if not benchmark:
        return
    about = {"study": "speed", "profile": "", "system": "", "seed": "", "task": "",
             "record": "benchmark"}
    for row in benchmark["rows"]:
        unit = json.dumps({"unit": row["unit"]})
        for key, said in (("value", ""), ("low", ", least"), ("high", ", largest")):
            if key == "value" or row["repeats"] > 1:
                yield about | {"changed": unit, "measure": row["question"] + said,
                               "value": row[key]}
    for measure, value in _points(benchmark["curves"]):
        yield about | {"changed": "{}", "measure": measure, "value": value}


def _points(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested mappings and lists, named by the way to it."""
    if isinstance(found, Mapping | list):
        items = found.items() if isinstance(found, Mapping) else enumerate(found, 1)
        for key, value in items:
            yield from _points(value, f"{name}: {key}" if name else str(key))
    elif isinstance(found, int | float):
        yield name, found


def _measurements(record: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    results, epochs = record["results"], record["epochs"]
    for key, found in results.items():
        if key == "retrieval":
            for task, scores in found.items():
                yield from ((task, name, value) for name, value in scores.items()
                            if name != "queries" and value is not None)
        elif key == "w_distance":
            yield from (("/".join(pair["tasks"]), f"w_distance_{name}", pair[name])
                        for pair in found for name in ("mean", "variance"))
        elif key == "parameters":
            yield from (("", f"parameters_{name}", count) for name, count in found.items())
        elif key == "gates":
            yield from (("", f"gate of {stage}, {where}", value) for stage, places in found.items()
                        for where, value in places.items())
        elif key in ("somp_errors", "random_errors"):
            yield from (("", f"{key[:-1]} of {layer}", value) for layer, value in found.items())
        elif isinstance(found, int | float):
            yield "", key, found
        elif (key.startswith("test_") or key == "hard") and isinstance(found, dict):
            yield from ((task, key, value) for task, value in found.items()
                        if isinstance(value, float))
    last = epochs[-1] if epochs else {}
    yield from ((task, key, value) for key in OF_TASKS for task, value in last.get(key, {}).items())
    yield from (("", key, last[key]) for key in OF_ALL if key in last)
    for pair in last.get("ucr") or []:
        for name, with_zeros in (("ucr", True), ("ucr, zeros left out", False)):
            ratio = pair_ucr([record], tuple(pair["tasks"]), with_zeros)
            if ratio.count:
                yield "/".join(pair["tasks"]), name, ratio.value
    yield from _of_updates(record)
    run = record["run"]
    yield from (("", f"milliseconds_{name}", value)
                for name, value in run.get("milliseconds", {}).items())
    yield from (("", key, run[key]) for key in ("training_seconds", "images_per_second")
                if key in run)


def _of_updates(record: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """What probes said: by stage of the trunk, epoch by epoch, and in each mode at the end."""
    yield from (("", f"ucr of {stage}", ratio.value)
                for stage, ratio in ucr_by_stage([record]).items())
    for epoch in record["epochs"]:
        cosines = [pair["mean_cosine"] for pair in epoch.get("ucr") or [] if "mean_cosine" in pair]
        if cosines:
            yield "", f"mean cosine in epoch {epoch['epoch']}", sum(cosines) / len(cosines)
    probes = record["results"].get("probes", {"modes": {}})
    for mode, found in probes["modes"].items():
        counts_2TT = from_json(found["counts"])
        positive, negative = counts_2TT[:, *np.triu_indices(counts_2TT.shape[-1], 1)].mean(1)
        yield "", f"ucr, {mode}", float(positive / probes["batches"])
        if positive + negative:
            yield "", f"ucr, {mode}, zeros left out", float(positive / (positive + negative))
        yield from (("", f"same sign: {mode} and {other}", share)
                    for other, share in found["agreement"].items() if share is not None)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    if path.exists() and not path.is_file():  # whose name a file would take, such as /dev/stdout
        raise ModlibError(f"--csv must name a file; given {path}, which is none")
    with written_whole(path, "the table") as file:
        file.write(table.to_csv(index=False).encode())


def main() -> None:
    """List the finished runs, or write their measurements as CSV: ``python -m modlib.tidy``."""
    parser = argparse.ArgumentParser(prog="python -m modlib.tidy", description=main.__doc__)
    parser.add_argument("--folder", default="book/results", help="records to read")
    parser.add_argument("--csv", metavar="FILE", help="write the measurements there")
    arguments = parser.parse_args()
    try:
        table = tidy_table(arguments.folder)
        if arguments.csv:
            _write_csv(table, Path(arguments.csv).resolve())
    except (ModlibError, OSError) as error:
        parser.exit(2, f"{error}\n")
    runs = table[table.measure == "test_accuracy"].groupby(
        ["study", "profile", "system", "record"]).value.agg(["size", "mean"]).round(4)
    print(runs.rename(columns={"size": "tasks", "mean": "mean test accuracy"}).to_string())
    of_runs = table[table.study != "speed"]
    print(f"{len(of_runs):,} measurements of {of_runs.record.nunique()} runs, and "
          f"{len(table) - len(of_runs)} of the benchmark"
          + (f"; written to {arguments.csv}" if arguments.csv else ""))


if __name__ == "__main__":
    main()
