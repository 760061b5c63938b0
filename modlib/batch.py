"""Notebooks in batch, by papermill, one after the other; and what has come of them, as a table.

``python -m modlib.batch run celeba_gpu --data FOLDER``, ``python -m modlib.batch status``. Runs
that are done are read, so a call that is made again goes on from where the last one came to.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from modlib.errors import ModlibError, unknown_name
from modlib.executed_copies import COPIES, executed_copy, mark_stopped, status_table
from modlib.results import project_root, relative_to_root, resolve
from modlib.settings_files import read_changes, read_settings, settings_file, settings_text
from modlib.whole_files import cannot_be_written, check_writable

MADE_HERE = ("toy_faces", "digits")  # data sets that need no data_root
LOG_SECONDS = "5"  # between two lines of a progress bar in a log


def notebooks_for(settings: Path) -> list[Path]:
    """The notebooks that a settings file is for, in order.

    One of the comments at its head says so: ``# Notebooks: 03 05``, ``all`` or ``all but 10``.

    Raises:
        ModlibError: no comment says so, or it names a notebook that there is not; or the file is
            no text in UTF-8.
    """
    there = {path.stem[:2]: path for path in sorted(resolve("notebooks").glob("[0-9]*.ipynb"))}
    said = re.search(r"^# Notebooks: (all$|all but |)([\d ]*)$", settings_text(settings), re.M)
    if said is None:
        raise ModlibError(
            f"{settings.name} does not say which notebooks it is for; give it a comment such as "
            "'# Notebooks: 03 05', '# Notebooks: all' or '# Notebooks: all but 10'")
    named = said[2].split()
    for number in named:
        if number not in there:
            raise unknown_name(f"notebook of {settings.name}:", number, there)
    return [path for number, path in there.items() if (number in named) != bool(said[1])]


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
        "--no-progress-bar", "-f", relative_to_root(settings),
        *(("-y", changes) if changes else ()),
        *(part for name, value in given.items() if value for part in ("-r", name, value)),
        relative_to_root(notebook), relative_to_root(copy)]
    with _log(copy.with_suffix(".log")) as write, subprocess.Popen(
            command, cwd=root, env={"TQDM_MININTERVAL": LOG_SECONDS} | os.environ, text=True,
            encoding="utf8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as papermill:
        try:
            for line in papermill.stdout:
                print(line, end="", flush=True)
                write(line)
        except KeyboardInterrupt:
            papermill.communicate()  # it was interrupted too, and keeps what was done
            mark_stopped(copy)
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
