"""Run every benchmark, print one table, write one record. `make bench` calls it.

    python benchmarks/run.py [--data PATH] [--only NAME ...] [--output PATH]

Each benchmark is a process of its own, on an otherwise idle machine. PATH is CelebA, a folder or a
zip archive. Without it, and without the tests' part of CelebA beside the project, the rows that
need real faces are left out. The exit status is 1 where a target is missed, 2 where a benchmark
fails.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from modlib.machine import git_commit, run_facts
from modlib.results import resolve, write_record
from modlib.speed import RECORD, number

NAMES = ("start_up", "batching", "conventional", "inference", "systems", "precision", "tricks",
         "compiled", "allocator", "ucr_probe", "data_path", "growth", "time_to_accuracy")
SUBSET = "../shared/data/celeba-19k.zip"  # a random part of CelebA, where it lies beside


def one(name: str, data_root: str | None) -> dict:
    """What one benchmark measured, from a process of its own."""
    data = ["--data", data_root] if data_root else []
    done = subprocess.run([sys.executable, __file__, "--measure", name, *data],
                          stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"TQDM_DISABLE": "1"})
    if done.returncode:
        print(f"benchmark {name} failed", file=sys.stderr)
        sys.exit(2)
    return json.loads(done.stdout.splitlines()[-1])


def print_rows(rows: list[dict]) -> None:
    """Rows as lines of text: what, how much, its range, the target."""
    for row in rows:
        target = "".join(f"  [{word} {row[key]:g}: {'met' if row['met'] else 'MISSED'}]"
                         for key, word in (("at_least", "at least"), ("at_most", "at most"))
                         if row[key] is not None)
        spread = f" ({number(row['low'])} to {number(row['high'])})" if row["repeats"] > 1 else ""
        print(f"{row['question']:92s} {number(row['value']):>8s} {row['unit']}{spread}{target}",
              flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--output", default=f"runs/records/{RECORD}")
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data_root = arguments.data or (str(resolve(SUBSET)) if resolve(SUBSET).exists() else None)
    if data_root and not Path(data_root).exists():
        parser.error(f"--data {data_root!r} does not exist; give a folder or a zip archive")
    if arguments.measure:
        result = importlib.import_module(arguments.measure).measure(data_root)
        print(json.dumps(result))
        return
    started, rows, curves, output = time.perf_counter(), [], {}, resolve(arguments.output)
    facts = run_facts([{"seconds": 1, "images": 0}], torch.device("cpu"), 0,
                      git_commit("benchmarks", "notebooks/settings"))
    facts = {key: facts[key] for key in ("device", "versions", "git_commit")}
    for name in arguments.only:
        result = one(name, data_root)
        print_rows(result["rows"])
        if not result["rows"] and not result.get("curves"):
            print(f"{name}: not measured here, see the first lines of benchmarks/{name}.py")
        rows += result["rows"]
        curves |= result.get("curves", {})
        seconds = time.perf_counter() - started
        write_record(output, {  # after each, so that a later one that fails loses nothing
            "version": 1, "rows": rows, "curves": curves,
            "run": facts | {"seconds": seconds, "data": bool(data_root)}})
    missed = [row["question"] for row in rows if not row["met"]]
    print(f"\n{len(rows)} rows in {seconds / 60:.1f} minutes, written to {output}")
    if missed:
        print("missed:", *missed, sep="\n  ")
        sys.exit(1)


if __name__ == "__main__":
    main()
