"""The two files of a saved network: tensors in safetensors, and a JSON that says what they are.

The JSON holds the digest of the tensors. Whenever a save breaks off, the pair is the one that was
there before, or the new one. Neither file is ever unpickled.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from modlib.errors import ModlibError
from modlib.results import resolve
from modlib.whole_files import cannot_be_written, remove_abandoned, written_whole

FORMAT = 1  # raise it when the files' layout, or what the network does with the pixels, changes
ABSENT = "there is no file {}; a saved network is two files, {} and {}"
KEYS = ("format", "kind", "tensors_sha256", "versions")


def files_of(path: str | Path) -> tuple[Path, Path]:
    """The tensors' file and the JSON's; the path is given with either suffix or without."""
    path = resolve(path)
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")


def write_pair(path: str | Path, state: Mapping[str, Tensor], about: dict) -> tuple[Path, Path]:
    """Write ``<path>.safetensors`` and ``<path>.json``; files of these names are replaced.

    Args:
        path: with or without a suffix; relative ones start at the project's root.
        state: tensors by name.
        about: for the JSON, beside the format, the versions and the digest.

    Returns:
        the two files.

    Raises:
        ModlibError: the files cannot be written.
    """
    files = files_of(path)
    tensors = to_safetensors({name: tensor.detach().cpu().contiguous()
                              for name, tensor in state.items()})
    versions = {name: metadata.version(name) for name in ("modlib", "torch", "safetensors")}
    text = json.dumps({
        "format": FORMAT, **about, "versions": versions,
        "tensors_sha256": hashlib.sha256(tensors).hexdigest()}, indent=1, allow_nan=False)
    _switch(*files, tensors, f"{text}\n".encode())
    return files


def read_pair(
    path: str | Path, kind: str, keys: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors, when both are whole and belong together.

    Args:
        path: as of :func:`write_pair`.
        kind: what the JSON has to say of itself.
        keys: what it has to have, beside ``KEYS``.

    Returns:
        what the JSON holds, and the tensors by name, on the CPU.

    Raises:
        ModlibError: a file is missing, torn or of another format or kind, the JSON lacks a key, or
            the two do not belong together.
    """
    file, beside = files_of(path)
    try:
        about = json.loads(beside.read_text("utf8"))
    except FileNotFoundError:
        raise ModlibError(ABSENT.format(beside, file.name, beside.name)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModlibError(f"{beside} cannot be read: {error}") from error
    for key, wanted in (("format", FORMAT), ("kind", kind)):
        found = about.get(key) if isinstance(about, dict) else None
        if found != wanted:
            raise ModlibError(f"{beside} has {key} {found!r}; allowed here: {wanted!r}")
    if missing := [key for key in (*KEYS, *keys) if key not in about]:
        raise ModlibError(f"{beside} lacks {', '.join(missing)}; save the network anew")
    try:
        return about, from_safetensors(_tensors_of(str(about["tensors_sha256"]), file, beside))
    except (OSError, SafetensorError) as error:
        raise ModlibError(f"{file} cannot be read: {error}") from error


def _switch(file: Path, about: Path, tensors: bytes, text: bytes) -> None:
    """Put two files in the place of two, though the system renames but one at a time.

    What the JSON names is current, so the new tensors wait beside the old ones until it is changed.
    """
    what, waiting = "the file of weights", _waiting(file, hashlib.sha256(tensors).hexdigest())
    left = waiting.exists()  # by a save that was killed: perhaps the JSON names them already
    try:
        for path, content in ((waiting, tensors), (about, text)):
            with written_whole(path, what) as opened:
                opened.write(content)
    except BaseException:
        with suppress(OSError):
            left or waiting.unlink()
        raise
    try:
        os.replace(waiting, file)
    except OSError as error:
        raise cannot_be_written(what, file, error) from error
    for path in (file, about):
        remove_abandoned(path)  # of saves that were killed


def _waiting(file: Path, digest: str) -> Path:
    """Where tensors are until the JSON names their digest and they get their own name."""
    return Path(f"{file}.{digest[:16]}.tmp")


def _tensors_of(digest: str, file: Path, beside: Path) -> bytes:
    """The content with a digest: of the file, or of one that a save had no time to rename."""
    for one in (file, _waiting(file, digest)):
        if one.is_file() and hashlib.sha256(content := one.read_bytes()).hexdigest() == digest:
            return content
    if not file.is_file():
        raise ModlibError(ABSENT.format(file, file.name, beside.name))
    raise ModlibError(f"{file} is not what was saved with {beside.name}: its sha256 is another; "
                      "copy both files again, or save the network anew")


def check_tensors(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, by: str
) -> None:
    """Refuse tensors that are not, name by name, of the wanted shapes and kinds.

    Args:
        what: whose the given tensors are, for the error.
        by: what says which are wanted, for the error.

    Raises:
        ModlibError: one is missing, too many, or of another shape or kind.
    """
    for names, word in ((wanted.keys() - given.keys(), "lacks"),
                        (given.keys() - wanted.keys(), "has, and should not have,")):
        if names:
            raise ModlibError(f"{what} {word} {len(names)} tensors, such as {min(names)}: "
                              f"it does not fit {by}")
    for name, tensor in wanted.items():
        here, there = (f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}"
                       for one in (given[name], tensor))
        if here != there:
            raise ModlibError(f"{what}: tensor {name} is {here}; {by} needs {there}")
