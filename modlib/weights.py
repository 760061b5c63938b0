"""Trained networks kept as files: the tensors in safetensors, and beside them a JSON that says what
they are. Neither is ever unpickled.

Shapes: B batch, T tasks, C channels, H W height and width.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from modlib.checkpoints import read_checkpoint
from modlib.errors import ModlibError
from modlib.experiments import checkpoint_path, new_network
from modlib.modulated_network import ModulatedNetwork
from modlib.parameters import split_parameters
from modlib.results import resolve
from modlib.settings import Places, Settings
from modlib.task_networks import Network
from modlib.trunk import PIXEL_MEAN_RGB, PIXEL_SCALE
from modlib.whole_files import cannot_be_written, remove_abandoned, written_whole

FORMAT = 1  # raise it when the files' layout, or what the network does with the pixels, changes
NETWORK, INSERTED = "network", "inserted modulation"
ABSENT = "there is no file {}; a saved network is two files, {} and {}"
KEYS = ("format", "kind", "tensors_sha256", "versions")


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, and what it was made by.

    Attributes:
        network: in eval mode.
        settings: what it was built and trained by; ``settings.tasks`` names its T tasks.
        about: for people and records, as JSON holds it: of a finished run its ``record`` (the
            name), ``data``, ``test_accuracy`` (None where it was not tested) and ``git_commit``.
    """

    network: Network
    settings: Settings
    about: Mapping[str, Any] = field(default_factory=dict)


def network_of(record: Mapping[str, Any], places: Places) -> TrainedNetwork:
    """The trained network of a finished run, from the checkpoint of its last epoch.

    Args:
        record: as :func:`modlib.experiments.run` returned it, or as it was read.
        places: where the checkpoints of that run are.

    Returns:
        the network on the CPU.

    Raises:
        ModlibError: a record of another kind of network; the checkpoint is not there, cannot be
            read, is of another run, ends before the last epoch, or holds another network.
    """
    settings = _settings_of(record["settings"], f"record {record['name']}")
    path = checkpoint_path(settings, places, record["data"]["fingerprint"])
    if path.stem != record["name"]:
        raise ModlibError(f"the record of these settings and data is called {path.stem}; given "
                          f"{record['name']}")
    if not path.exists():
        raise ModlibError(
            f"the weights of {record['name']} are not in its record but in its checkpoint, and "
            f"{path} is not there; name the folder that holds it (checkpoint_dir), or train the "
            "network again with modlib.experiments.trained_network")
    state = read_checkpoint(path, record["name"])
    if len(state["history"]) != settings.epochs:
        raise ModlibError(f"checkpoint {path} ends after epoch {len(state['history'])} of "
                          f"{settings.epochs}; run the same settings again, and it goes on")
    network = _built(settings)
    _check_tensors(state["network"], network.state_dict(), f"checkpoint {path}", "its settings")
    network.load_state_dict(state["network"])
    return TrainedNetwork(network, settings, {
        "record": record["name"], "data": record["data"],
        "test_accuracy": record["results"].get("test_accuracy"),
        "git_commit": record["run"]["git_commit"]})


def save(trained: TrainedNetwork, path: str | Path) -> tuple[Path, Path]:
    """Write a network to ``<path>.safetensors`` and ``<path>.json``; files of these names go.

    Whenever it breaks off, :func:`load` gives the network that was there before, or this one. The
    JSON holds the digest of the tensors, so that a pair that does not belong together is not
    loaded.

    Args:
        path: without a suffix; relative ones start at the project's root.

    Returns:
        the two files.

    Raises:
        ModlibError: the network is not one of its settings, or the files cannot be written.
    """
    state = trained.network.state_dict()
    _check_tensors(state, _built(trained.settings).state_dict(), "the network", "its settings")
    return _write(path, state, dict(trained.about) | {
        "kind": NETWORK, "settings": trained.settings.as_dict(),
        "preprocessing": preprocessing(trained.settings)})


def load(path: str | Path) -> TrainedNetwork:
    """Read what :func:`save` wrote; the embeddings are the same, to the last bit.

    Returns:
        the network on the CPU, in eval mode.

    Raises:
        ModlibError: a file is missing, torn or of another format; the two do not belong together;
            a setting (such as the system) is not known; a tensor is missing, there is one too
            many, or one has another shape or kind; the pixels were prepared in another way.
    """
    about, state = _read(path, NETWORK, ("settings", "preprocessing"))
    settings = _settings_of(about["settings"], f"{_stem(path)}.json")
    if about["preprocessing"] != preprocessing(settings):
        raise ModlibError(f"{_stem(path)}.json prepares pixels by {about['preprocessing']!r}; this "
                          f"modlib by {preprocessing(settings)!r}")
    network = _built(settings)
    _check_tensors(state, network.state_dict(), f"{_stem(path)}.safetensors", "the JSON beside it")
    network.load_state_dict(state)
    own = {"settings", "preprocessing", *KEYS}
    return TrainedNetwork(network, settings, {k: v for k, v in about.items() if k not in own})


def preprocessing(settings: Settings) -> dict[str, Any]:
    """How an image becomes what the network takes, and what the network itself does with it."""
    return {
        "input": "uint8 (B, 3, H, W), RGB, 0 to 255", "image_size": settings.image_size,
        "crop": settings.crop,  # side of what is kept, over the centre square's
        "resampling": "lanczos",  # see modlib.image_cache.decode_image
        "pixel_mean_rgb": list(PIXEL_MEAN_RGB), "pixel_scale": PIXEL_SCALE,
        "normalised_by": "the network",
    }


def save_inserted(network: ModulatedNetwork, path: str | Path) -> tuple[Path, Path]:
    """Write a network that :func:`modlib.insertion.insert_modulation` made: model and scales.

    The architecture is the reader's own, so it is not kept: see :func:`load_inserted`.

    Raises:
        ModlibError: the files cannot be written.
    """
    return _write(path, network.state_dict(), {"kind": INSERTED} | _inserted(network))


def load_inserted(network: ModulatedNetwork, path: str | Path) -> ModulatedNetwork:
    """Read what :func:`save_inserted` wrote into a network that was made in the same way.

    Returns:
        the same network, in eval mode.

    Raises:
        ModlibError: as :func:`load`; or the tasks, or the modulated submodules, are others. The
            network is then as it was.
    """
    about, state = _read(path, INSERTED, tuple(_inserted(network)))
    for key, here in _inserted(network).items():
        if about[key] != here:
            raise ModlibError(f"{_stem(path)}.json has {key} {about[key]!r}; the network {here!r}")
    _check_tensors(state, network.state_dict(), f"{_stem(path)}.safetensors", "the network")
    network.load_state_dict(state)
    return network.eval()


def _inserted(network: ModulatedNetwork) -> dict[str, Any]:
    return {"tasks": list(network.tasks),
            "modulated": [scale.name for scale in network.modulation.values()]}


def _built(settings: Settings) -> Network:
    """A network of the settings in eval mode, never compiled: what it computes is the same."""
    return new_network(replace(settings, compiled=False)).eval()


def _settings_of(values: Any, where: str) -> Settings:
    """Settings as JSON holds them; those that are newer than it have their defaults."""
    try:
        if not isinstance(values, Mapping):
            raise ModlibError(f"settings must be names with values; given {values!r}")
        return Settings(**split_parameters(values, Settings)[0])
    except ModlibError as error:
        raise ModlibError(f"{where}: {error}") from error


def _stem(path: str | Path) -> Path:
    path = resolve(path)
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _write(path: str | Path, state: Mapping[str, Tensor], about: dict) -> tuple[Path, Path]:
    stem = _stem(path)
    files = Path(f"{stem}.safetensors"), Path(f"{stem}.json")
    tensors = to_safetensors({name: tensor.detach().cpu().contiguous()
                              for name, tensor in state.items()})
    versions = {name: metadata.version(name) for name in ("modlib", "torch", "safetensors")}
    text = json.dumps({
        "format": FORMAT, **about, "versions": versions,
        "tensors_sha256": hashlib.sha256(tensors).hexdigest()}, indent=1, allow_nan=False)
    _switch(*files, tensors, f"{text}\n".encode())
    return files


def _waiting(file: Path, digest: str) -> Path:
    """Where tensors are until the JSON names their digest and they get their own name."""
    return Path(f"{file}.{digest[:16]}.tmp")


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


def _read(
    path: str | Path, kind: str, keys: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors, when both are whole and belong together."""
    file, beside = Path(f"{_stem(path)}.safetensors"), Path(f"{_stem(path)}.json")
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


def _tensors_of(digest: str, file: Path, beside: Path) -> bytes:
    """The content with a digest: of the file, or of one that a save had no time to rename."""
    for one in (file, _waiting(file, digest)):
        if one.is_file() and hashlib.sha256(content := one.read_bytes()).hexdigest() == digest:
            return content
    if not file.is_file():
        raise ModlibError(ABSENT.format(file, file.name, beside.name))
    raise ModlibError(f"{file} is not what was saved with {beside.name}: its sha256 is another; "
                      "copy both files again, or save the network anew")


def _check_tensors(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, by: str
) -> None:
    """Refuse tensors that are not, name by name, of the wanted shapes and kinds."""
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
