"""Notebooks that papermill has executed: where the copies lie, and what has come of each."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from modlib.errors import ModlibError
from modlib.results import read_record, relative_to_root, resolve
from modlib.whole_files import written_whole

COPIES = "runs"  # executed copies lie here, each beside its log


def executed_copy(notebook: Path, settings: Path) -> Path:
    """Where papermill puts what it makes of a notebook; the log lies beside it."""
    return resolve(COPIES) / f"{notebook.stem}.{settings.stem}.ipynb"


def mark_stopped(copy: Path) -> None:
    """Mark a copy as stopped by an interrupt: papermill ends it as it ends any."""
    if copy.exists():
        content = json.loads(copy.read_text("utf8"))
        content["metadata"]["modlib"] = {"stopped": True}
        with written_whole(copy, "the executed copy") as file:
            file.write(json.dumps(content, indent=1).encode())


def status_table(copies: Iterable[Path]) -> pd.DataFrame:
    """What has come of executed copies, one a line.

    Returns:
        columns ``notebook``, ``settings``, ``state`` (done, failed, stopped by an interrupt, or
        not finished: at work, or killed), ``runs done`` and ``runs left`` by the records that are
        there, ``minutes`` of training in them (these three empty where the notebook has no runs,
        or has not come to them), ``last line``, the minute in which the log got it (local time: it
        tells a notebook at work from a killed one), ``executed copy``, ``log``, and ``error``,
        that a cell ended in.

    Raises:
        ModlibError: a copy is no notebook, or a record of its runs is broken.
    """
    return pd.DataFrame([_status(copy) for copy in copies])


def _status(copy: Path) -> dict[str, Any]:
    notebook, _, settings = copy.stem.partition(".")
    try:
        state, names, error = _told_by(json.loads(copy.read_text("utf8", errors="replace")))
    except json.JSONDecodeError:  # papermill is writing it, and may be within a letter
        state, names, error = "not finished", [], ""
    except (AttributeError, KeyError, TypeError, RecursionError) as wrong:
        raise ModlibError(f"{copy} is no notebook; allowed in {COPIES}/: what papermill "
                          "writes. Delete it, or run it again") from wrong
    records = [read_record(resolve(name)) for name in names if resolve(name).exists()]
    seconds = sum(record["run"]["training_seconds"] for record in records)
    return {
        "notebook": notebook, "settings": settings, "state": state,
        "runs done": str(len(records)) if names else "",
        "runs left": str(len(names) - len(records)) if names else "",
        "minutes": f"{seconds / 60:.1f}" if names else "",
        "last line": _last_written(copy.with_suffix(".log")),
        "executed copy": relative_to_root(copy), "log": relative_to_root(copy.with_suffix(".log")),
        "error": error,
    }


def _last_written(log: Path) -> str:
    try:
        return datetime.fromtimestamp(log.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    except FileNotFoundError:
        return ""


def _told_by(content: Any) -> tuple[str, list[str], str]:
    """The state of a copy, the names of its runs' records, and the error that a cell ended in."""
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    names = [name + "" for output in outputs  # a TypeError where it is no text
             for name in output.get("metadata", {}).get("modlib", {}).get("records", [])]
    error = next((output for output in outputs if output["output_type"] == "error"), None)
    said = f"{error['ename']}: {error['evalue']}" if error else ""
    return _state(error, content["metadata"]), names, said


def _state(error: Mapping[str, str] | None, metadata: Mapping[str, Any]) -> str:
    stopped = error and error["ename"] in ("Stopped", "KeyboardInterrupt")
    if stopped or metadata.get("modlib", {}).get("stopped"):
        return "stopped"
    if error:
        return "failed"
    return "done" if metadata.get("papermill", {}).get("end_time") else "not finished"
