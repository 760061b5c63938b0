"""What a reader can do where a table has no record yet: boxes that name it, and the call.

All are Markdown.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from modlib.machine import device_in_words
from modlib.results import read_records, resolve
from modlib.settings_files import seeds_of

OTHER_IMAGES = (  # below a call that adds to a table which has records already
    ">\n> On other images, a part picked from your own copy too, it is refused before anything is "
    "trained: one table shows one set of images. Leave out `RESULTS`, and every row is run on "
    "yours, into `runs/records`.\n")


def not_run_yet(
    profile: str, folder: str, notebook: str, data: str = "/path/to/celeba"
) -> str:
    """A Markdown box for a profile without records: what it would tell, and how to make them.

    What the profile is comes from the first lines of its settings file; what it would answer,
    from the notebook's title; how long runs take, from records of other profiles.

    Args:
        folder: below ``book/results``, where the records would lie.
        notebook: the number that begins the notebook's name.
        data: where the reader's copy of the data may lie.
    """
    return (
        f"> **Not run yet: `{profile}`.** {_about(profile)}No record of it is in "
        f"`book/results/{folder}`, so you can be the first to ask it: "
        f"“{question(notebook)}” {_warning(profile)}One call, and the next `make book` shows the "
        "answer here:"
        f"\n>\n{_command(profile, notebook, data)}{_for_scale(folder, profile)}"
    )


def _warning(profile: str) -> str:
    """What to ask before a study that is made for a GPU is begun."""
    return ("It is made for a GPU, and takes days rather than minutes: "
            "`.venv/bin/python -m modlib.cost --measure` tells the hours on yours. "
            if profile == "celeba_gpu" else "")


def _about(profile: str) -> str:
    """What the first lines of a profile's settings file say of it, but for what it needs."""
    path = resolve(f"notebooks/settings/{profile}.yml")
    if not path.exists():
        return ""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text("utf8").splitlines())
    said = " ".join(line.removeprefix("#").strip() for line in lines)
    said = re.sub(r" \(\d\d( alone)?\)", "", said)  # which notebook it is for: the reader is there
    return said.partition(" Needs data_root")[0] + " "


def question(notebook: str) -> str:
    """The title of the notebook whose name begins so."""
    [path] = resolve("notebooks").glob(f"{notebook}_*.ipynb")
    first_cell = "".join(json.loads(path.read_text("utf8"))["cells"][0]["source"])
    return first_cell.partition("\n")[0].removeprefix("# ")


def _for_scale(folder: str, profile: str) -> str:
    """How long the folder's records of other profiles took; a CPU's say nothing of a GPU's."""
    minutes: dict[tuple[str, str], list[float]] = {}
    for record in read_records(f"book/results/{folder}"):
        if "gpu" in profile and record["run"]["device"].startswith("cpu"):
            continue
        of_profile = minutes.setdefault(
            (record["settings"]["profile"], record["run"]["device"]), [])
        of_profile.append(record["run"]["training_seconds"] / 60)
    return "".join(
        f">\n> For scale: the runs of `{profile}` took {min(some):.0f} to {max(some):.0f} minutes "
        f"each on {device_in_words(device)}.\n" for (profile, device), some in minutes.items())


def _command(profile: str, notebook: str, data: str) -> str:
    return f">     {run_call(profile, notebook, data)}\n"


def run_call(profile: str, notebook: str, data: str = "/path/to/celeba") -> str:
    """The call that writes a profile's missing records where the book reads them."""
    return f"make run NB={notebook} SETTINGS={profile} DATA={data} RESULTS=book/results"


def some_not_run_yet(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], profile: str, notebook: str,
    data: str = "/path/to/celeba", seeds: Iterable[int] | None = None,
) -> str:
    """A Markdown box that names the rows that lack seeds, and these; "" where none lacks any.

    Args:
        seeds: which every row is to have, beside those that any row has; None: those that the
            profile's settings file asks for.
    """
    seeds = seeds_of(profile) if seeds is None else seeds
    found = {name: {record["settings"]["seed"] for record in records}
             for name, records in rows.items()}
    every = set(seeds).union(*found.values())
    missing = {name: sorted(every - here) for name, here in found.items() if every - here}
    if not missing:
        return ""
    return (f"\n\n> **Not run yet:** {_in_words(missing, every, len(rows))}. The tables are "
            "without them. On the same images "
            f"this call runs what is missing, and only that:\n>\n"
            f"{_command(profile, notebook, data)}"
            f"{_time_left(rows, missing)}{OTHER_IMAGES}")


def _in_words(missing: Mapping[str, Sequence[int]], every: set[int], rows: int) -> str:
    """Which rows lack which seeds; rows that lack the same ones together."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, without in missing.items():
        groups.setdefault(tuple(without), []).append(f"*{name}*")
    untouched = groups.pop(tuple(sorted(every)), [])
    said = []
    for without, names in groups.items():
        seeds = f"seed{'s' * (len(without) > 1)} {', '.join(map(str, without))}"
        said.append(f"{seeds} of every row" if len(names) == rows > 1 else
                    f"{', '.join(names)} ({seeds})")
    return "; ".join(said + [f"all seeds of {'; '.join(untouched)}"] * bool(untouched))


def _time_left(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], missing: Mapping[str, Sequence[int]]
) -> str:
    """How long the missing seeds take, by the seeds of the same rows that were run."""
    timed = [name for name in missing if rows[name]]
    if not timed:
        return ""
    seconds = sum(
        len(missing[name]) * np.median([one["run"]["training_seconds"] for one in rows[name]])
        for name in timed)
    device = rows[timed[0]][0]["run"]["device"]
    return (f">\n> {', '.join(timed)}: about {max(1, round(seconds / 60))} minutes of training in "
            f"all, by the seeds that were run on {device_in_words(device)}.\n")
