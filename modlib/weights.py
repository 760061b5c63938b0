"""Trained networks kept as files: the tensors in safetensors, and beside them a JSON that says what
they are. Neither is ever unpickled.

Shapes: B batch, T tasks, C channels, H W height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modlib.checkpoints import read_checkpoint
from modlib.errors import ModlibError
from modlib.experiments import new_network
from modlib.kept_runs import checkpoint_path
from modlib.modulated_network import ModulatedNetwork
from modlib.parameters import split_parameters
from modlib.settings import Places, Settings
from modlib.task_networks import Network
from modlib.trunk import PIXEL_MEAN_RGB, PIXEL_SCALE
from modlib.weight_files import KEYS, check_tensors, files_of, read_pair, write_pair

NETWORK, INSERTED = "network", "inserted modulation"


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
    check_tensors(state["network"], network.state_dict(), f"checkpoint {path}", "its settings")
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
    check_tensors(state, _built(trained.settings).state_dict(), "the network", "its settings")
    return write_pair(path, state, dict(trained.about) | {
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
    about, state = read_pair(path, NETWORK, ("settings", "preprocessing"))
    settings = _settings_of(about["settings"], str(files_of(path)[1]))
    if about["preprocessing"] != (ours := preprocessing(settings)):
        raise ModlibError(f"{files_of(path)[1]} prepares pixels by {about['preprocessing']!r}; "
                          f"this modlib by {ours!r}")
    network = _built(settings)
    check_tensors(state, network.state_dict(), str(files_of(path)[0]), "the JSON beside it")
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
    return write_pair(path, network.state_dict(), {"kind": INSERTED} | _inserted(network))


def load_inserted(network: ModulatedNetwork, path: str | Path) -> ModulatedNetwork:
    """Read what :func:`save_inserted` wrote into a network that was made in the same way.

    Returns:
        the same network, in eval mode.

    Raises:
        ModlibError: as :func:`load`; or the tasks, or the modulated submodules, are others. The
            network is then as it was.
    """
    about, state = read_pair(path, INSERTED, tuple(_inserted(network)))
    for key, here in _inserted(network).items():
        if about[key] != here:
            raise ModlibError(f"{files_of(path)[1]} has {key} {about[key]!r}; the network {here!r}")
    check_tensors(state, network.state_dict(), str(files_of(path)[0]), "the network")
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
