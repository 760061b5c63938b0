"""Fetch CelebA or MNIST, each file checked by its MD5: ``python -m modlib.download celeba FOLDER``.

The files, their sums and where they lie are torchvision's. A file gets its name only once its sum
is right; until then it is ``NAME.part``, and the next call goes on from there. Of two calls at once
one fetches, and the other waits.
"""

import argparse
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torchvision.datasets import MNIST, CelebA
from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from modlib.errors import ModlibError
from modlib.locks import one_at_a_time
from modlib.results import resolve
from modlib.whole_files import cannot_be_written

SILENT_SECONDS = 60  # without a byte, after which a host is given up
NOTHING_MORE = 416  # HTTP: the range that was asked for begins where the file ends
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
BYTES = {  # of what modlib reads of CelebA
    "img_align_celeba.zip": 1_443_490_838, "list_attr_celeba.txt": 26_721_026,
    "list_eval_partition.txt": 2_836_386, "identity_CelebA.txt": 3_424_458}
PAGES = {"celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "mnist": MNIST.mirrors[0]}


@dataclass(frozen=True)
class Wanted:
    """One file: its name, its MD5 and the addresses where it may be."""

    name: str
    md5: str
    urls: tuple[str, ...]


def wanted_files(dataset: str, mirror: str | None = None) -> list[Wanted]:
    """The files of ``"celeba"`` or ``"mnist"``, as torchvision lists them.

    Args:
        mirror: an address below which they lie by their names too; tried last.

    Raises:
        ModlibError: the mirror is no address.
    """
    if mirror and not mirror.startswith(("https://", "http://", "file://")):
        raise ModlibError(
            f"mirror {mirror!r} is no address; it must begin with https://, http:// or file://")
    last = (mirror.rstrip("/") + "/",) if mirror else ()
    if dataset == "mnist":
        return [Wanted(name, md5, tuple(base + name for base in (*MNIST.mirrors, *last)))
                for name, md5 in MNIST.resources]
    return [Wanted(name, md5, (DRIVE + key, *(base + name for base in last)))
            for key, md5, name in CelebA.file_list if name in BYTES]


def download(files: Sequence[Wanted], folder: Path) -> None:
    """Fetch what a folder lacks; a file that is there is checked, and never written over.

    Raises:
        ModlibError: files that could not be had, and why, all of them in one message; or the folder
            cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_written("the folder of files", folder, error) from error
    failures = [failure for file in files for failure in _tried(file, folder / file.name)]
    if failures:
        raise ModlibError("\n".join(failures))


def _tried(file: Wanted, path: Path) -> list[str]:
    """Why one file could not be had from any of its addresses; nothing where it is there now."""
    failures = []
    for url in file.urls:
        try:
            fetch(url, path, file.md5)
            return []
        except ModlibError as error:
            failures.append(str(error))
    return list(dict.fromkeys(failures))  # a full disk is the same for every address


def fetch(url: str, path: Path, md5: str) -> None:
    """Fetch one file, from where an earlier call came to; or wait for a process that is at it.

    Raises:
        ModlibError: no answer, one that broke off, a web page in the place of the file, another
            sum, or no room for it; or another file has its name.
    """
    if _is_there(path, md5):
        return
    with one_at_a_time(path):  # a second one would append to the same part
        if not _is_there(path, md5):  # by another process meanwhile
            _fetch(url, path, md5)


def _is_there(path: Path, md5: str) -> bool:
    if not path.exists():
        return False
    if (found := calculate_md5(str(path))) != md5:
        raise ModlibError(f"{path} is there, but its MD5 is {found}, not {md5}: move it away")
    return True


def _fetch(url: str, path: Path, md5: str) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        _receive(url, part)
    except HTTPError as error:
        if error.code != NOTHING_MORE:  # which is what a part that is whole is answered
            raise ModlibError(f"{path.name}: {url} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        if getattr(error, "errno", None) in OF_THE_DISK:  # the host's errors have no such number
            raise cannot_be_written("the file", part, error) from error
        raise ModlibError(f"{path.name}: {url} cannot be reached, or broke off: {error}") from error
    found = calculate_md5(str(part))
    if found != md5:
        part.unlink()
        raise ModlibError(f"{path.name}: what {url} sends has the MD5 {found}, not {md5}")
    os.replace(part, path)


def _receive(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks, or all of it where the host sends no less."""
    there = part.stat().st_size if part.exists() else 0
    asked = Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    with urlopen(asked, timeout=SILENT_SECONDS) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise ModlibError(
                f"{part.stem}: {url} sends a web page, not the file. Most often the host's quota "
                "for the file is used up: try again after a day, or name a mirror")
        start = there if answer.status == 206 else 0
        left = answer.headers.get("Content-Length")
        whole = start + int(left) if left else None
        with part.open("ab" if start else "wb") as file, tqdm.wrapattr(
                file, "write", total=whole, initial=start, desc=part.stem) as counted:
            copyfileobj(answer, counted)
        if whole and part.stat().st_size < whole:
            raise OSError(f"{part.stat().st_size:,} of {whole:,} bytes came; the next call goes on")


def by_hand(dataset: str, files: Sequence[Wanted], folder: Path) -> str:
    """How to place files that the network does not give: their names, sizes, sums and folder."""
    lines = [f"  {file.name}  MD5 {file.md5}"
             + (f"  {BYTES[file.name]:,} bytes" if file.name in BYTES else "") for file in files]
    return "\n".join([
        f"To place them by hand: fetch them from {PAGES[dataset]}", *lines,
        f"put them, as they are, in {folder}, and make this call again: it checks them"])


def main() -> None:
    """Fetch a data set; files that are there already are checked."""
    parser = argparse.ArgumentParser(prog="python -m modlib.download", description=main.__doc__)
    parser.add_argument("dataset", choices=sorted(PAGES))
    parser.add_argument("folder", help="where the files go")
    parser.add_argument("--mirror", help="an address below which the files lie by their names")
    arguments = parser.parse_args()
    folder = resolve(arguments.folder)
    try:
        files = wanted_files(arguments.dataset, arguments.mirror)
    except ModlibError as error:
        parser.exit(2, f"{error}\n")
    try:
        download(files, folder)
    except (ModlibError, OSError) as error:
        missing = [file for file in files if not (folder / file.name).exists()]
        parser.exit(2, f"{error}\n\n{by_hand(arguments.dataset, missing or files, folder)}\n")
    print(f"{folder} holds {', '.join(file.name for file in files)}; their sums are right")


if __name__ == "__main__":
    main()
