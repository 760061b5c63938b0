"""Notebooks in batch, by papermill, one after the other; and what has come of them, as a table.

``python -m modlib.batch run celeba_gpu --data FOLDER``, ``python -m modlib.batch status``. Runs
that are done are read, so a call that is made again goes on from where the last one came to.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from modlib.errors import ModlibError, unknown_name
from modlib.results import project_root, read_record, resolve
from modlib.whole_files import cannot_be_written, check_writable, written_whole

COPIES = "runs"  # executed copies lie here, each beside its log
MADE_HERE = ("toy_faces", "digits")  # data sets that need no data_root
LOG_SECONDS = "5"  # between two lines of a progress bar in a log


def settings_file(name: str) -> Path:
    """The file of ``notebooks/settings`` with this name; ModlibError where there is none."""
    files = {path.stem: path for path in resolve("notebooks/settings").glob("*.yml")}
    name = name.removeprefix("notebooks/settings/").removesuffix(".yml")
    if name not in files:
        raise unknown_name("settings", name, sorted(files))
    return files[name]


def read_settings(settings: Path) -> dict[str, Any]:
    """The parameters of a settings file, by name; none where it has only comments.

    Raises:
        ModlibError: it is no text in UTF-8, no YAML, or no mapping of names to values.
    """
    return _named_values(
        _text(settings), f"settings {settings}", "a line each, such as 'epochs: 2'")


def read_changes(changes: str) -> dict[str, Any]:
    """Single parameters that are given with a call, by name; ModlibError as of a settings file."""
    return _named_values(changes, "SET", "such as '{epochs: 2, seeds: [0]}'")


def _named_values(text: str, said: str, example: str) -> dict[str, Any]:
    import yaml  # comes with the notebooks, not with modlib alone

    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date
        raise ModlibError(f"{said} cannot be read as YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ModlibError(
            f"{said} must map names to values, {example}; given {str(values)[:60]}")
    return values


def _text(settings: Path) -> str:
    try:
        return settings.read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModlibError(f"settings {settings} cannot be read as text in UTF-8: {error}"
                          ) from error


def notebooks_for(settings: Path) -> list[Path]:
    """The notebooks that a settings file is for, in order.

    One of the comments at its head says so: ``# Notebooks: 03 05``, ``all`` or ``all but 10``.

    Raises:
        ModlibError: no comment says so, or it names a notebook that there is not; or the file is
            no text in UTF-8.
    """
    there = {path.stem[:2]: path for path in sorted(resolve("notebooks").glob("[0-9]*.ipynb"))}
    said = re.search(r"^# Notebooks: (all$|all but |)([\d ]*)$", _text(settings), re.M)
    if said is None:
        raise ModlibError(
            f"{settings.name} does not say which notebooks it is for; give it a comment such as "
            "'# Notebooks: 03 05', '# Notebooks: all' or '# Notebooks: all but 10'")
    named = said[2].split()
    for number in named:
        if number not in there:
            raise unknown_name(f"notebook of {settings.name}:", number, there)
    return [path for number, path in there.items() if (number in named) != bool(said[1])]


def executed_copy(notebook: Path, settings: Path) -> Path:
    """Where papermill puts what it makes of a notebook; the log lies beside it."""
    return resolve(COPIES) / f"{notebook.stem}.{settings.stem}.ipynb"


def run_notebook(
    notebook: Path, settings: Path, data: str | None = None, results: str | None = None,
    changes: str | None = None,
) -> bool:
    """Execute a notebook with a settings file; its log goes to the screen and beside its copy.

    Args:
        data: ``data_root``; None: as the settings say.
        results: ``results_dir``; None: as the settings say.
        changes: single parameters that override those of the settings, as YAML; None: none.

    Returns:
        whether every cell ended well.

    Raises:
        ModlibError: the folder of copies and logs is full, or cannot be written to.
    """
    root, copy = project_root(), executed_copy(notebook, settings)
    check_writable(copy.parent, "the folder of executed copies")
    given = {"data_root": data, "results_dir": results}
    command = [
        sys.executable, "-m", "papermill", "-k", "python3", "--cwd", ".", "--log-output",
        "--no-progress-bar", "-f", _within(settings), *(("-y", changes) if changes else ()),
        *(part for name, value in given.items() if value for part in ("-r", name, value)),
        _within(notebook), _within(copy)]
    with _log(copy.with_suffix(".log")) as write, subprocess.Popen(
            command, cwd=root, env={"TQDM_MININTERVAL": LOG_SECONDS} | os.environ, text=True,
            encoding="utf8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as papermill:
        try:
            for line in papermill.stdout:
                print(line, end="", flush=True)
                write(line)
        except KeyboardInterrupt:
            papermill.communicate()  # it was interrupted too, and keeps what was done
            _mark_stopped(copy)
            raise
    return papermill.returncode == 0


@contextmanager
def _log(path: Path) -> Iterator[Callable[[str], None]]:
    """A new log; what cannot be written to it, on a disk that is full, is said by its name."""
    try:
        file = path.open("w", encoding="utf8")
    except OSError as error:
        raise cannot_be_written("the log", path, error) from error

    def write(line: str) -> None:
        try:
            file.write(line)
            file.flush()
        except OSError as error:
            raise cannot_be_written("the log", path, error) from error

    try:
        yield write
    finally:
        with suppress(OSError):  # of a line that was said already
            file.close()


def _mark_stopped(copy: Path) -> None:
    """Say so in the copy: papermill does not, and ends an interrupted copy as it ends any."""
    if copy.exists():
        content = json.loads(copy.read_text("utf8"))
        content["metadata"]["modlib"] = {"stopped": True}
        with written_whole(copy, "the executed copy") as file:
            file.write(json.dumps(content, indent=1).encode())


def _within(path: Path) -> str:
    """A path as it is told: from the project's root."""
    return str(path.relative_to(project_root()))


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
        "executed copy": _within(copy), "log": _within(copy.with_suffix(".log")), "error": error,
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


def _print_status(copies: Sequence[Path]) -> None:
    if not copies:
        print(f"nothing was run yet: no executed copy lies in {COPIES}/")
        return
    table = status_table(copies)
    print("\n" + table.drop(columns="error").to_string(index=False))
    for _, row in table[table.error != ""].iterrows():
        print(f"\n{row.notebook}: {row.error}")


def _run(arguments: argparse.Namespace) -> int:
    """Run what was asked for and say what has come of it; the exit status, 1 for any failure."""
    settings = settings_file(arguments.settings)
    # A slip in them is told now, not by papermill's traceback.
    values = read_settings(settings) | read_changes(arguments.set or "")
    notebooks = allowed = notebooks_for(settings)
    if not arguments.data and "data_root" not in values and (
            values.get("dataset", "toy_faces") not in MADE_HERE):
        raise ModlibError(f"{settings.name} needs data ({values['dataset']}): give "
                          "DATA=/path/to/it, a folder or a zip archive, or --data")
    if arguments.notebook:
        notebooks = sorted(resolve("notebooks").glob(f"{arguments.notebook}*.ipynb"))
        if len(notebooks) != 1:
            raise ModlibError(f"notebook {arguments.notebook!r} must begin the name of exactly one "
                              f"of {resolve('notebooks')}; it begins {len(notebooks)}")
        if notebooks[0] not in allowed:
            raise ModlibError(
                f"{settings.name} is not for notebook {notebooks[0].stem[:2]}; it is for "
                f"{', '.join(path.stem[:2] for path in allowed)}")
    try:
        ended_well = [
            run_notebook(notebook, settings, arguments.data, arguments.results, arguments.set)
            for notebook in notebooks]
        return int(not all(ended_well))
    except KeyboardInterrupt:
        print("\nStopped. The same call goes on from here.")
        return 130
    finally:
        copies = [executed_copy(notebook, settings) for notebook in notebooks]
        _print_status([copy for copy in copies if copy.exists()])


def main() -> None:
    """Run notebooks with one settings file, or say what has come of those that were run."""
    parser = argparse.ArgumentParser(prog="python -m modlib.batch", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one notebook, or all that a settings file is for")
    run.add_argument("settings", help="a file of notebooks/settings, without .yml")
    run.add_argument("--notebook", help="how the name of the only one begins, such as 02")
    run.add_argument("--data", help="data_root: the folder or zip archive with the data")
    run.add_argument("--results", help="results_dir: where the records go")
    run.add_argument("--set", help="single parameters as YAML: '{epochs: 2, seeds: [0]}'")
    commands.add_parser("status", help="a table of all executed copies")
    arguments = parser.parse_args()
    try:
        if arguments.command == "run":
            parser.exit(_run(arguments))
        _print_status(sorted(resolve(COPIES).glob("*.ipynb")))
    except ModlibError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
