"""Check records, and give a digest to those that were written without one.

    python tools/sign_records.py [FOLDER ...]

FOLDER is book/results unless it is named. A digest that is added says that it was added later: it
vouches for the file since then, not since its run. Nothing else in the file changes. A record that
was changed after it was signed, or that holds a figure that cannot be, is refused, and then none is
signed.
"""

import argparse
import json
from pathlib import Path

from modlib.committed import is_of_a_run
from modlib.errors import ModlibError
from modlib.record_checks import check_record
from modlib.results import LATER, read_record, read_with_keys, resolve, write_record


def checked(path: Path) -> dict:
    """A record without its digest: a run's, or that of the benchmarks or of the long tests."""
    if not is_of_a_run(path):
        return read_with_keys(path, ())
    record = read_record(path)
    check_record(record)
    if record["name"] != path.stem:
        raise ModlibError(f"record {path} calls itself {record['name']}: rename the file")
    return record


def sign(folder: Path) -> tuple[int, int]:
    """Sign what is unsigned below a folder.

    Returns:
        how many records were signed, and how many there are.

    Raises:
        ModlibError: there is no such folder, or a record is refused.
    """
    if not folder.is_dir():
        raise ModlibError(f"there is no folder {str(folder)!r}; give one that holds records")
    records = {path: checked(path) for path in sorted(folder.rglob("*.json"))}
    unsigned = [path for path in records if "digest" not in json.loads(path.read_text("utf8"))]
    for path in unsigned:
        write_record(path, records[path], LATER)
    return len(unsigned), len(records)


def main() -> None:
    """Sign each folder and say how many records there were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", default=["book/results"], metavar="FOLDER")
    for folder in parser.parse_args().folders:
        try:
            signed, count = sign(resolve(folder))
        except ModlibError as error:
            parser.exit(2, f"{error}\n")
        print(f"{folder}: {count} records, {signed} of them signed now")


if __name__ == "__main__":
    main()
