"""From settings to a record: load, train, evaluate, write; skip what is done, resume the rest."""

import inspect
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from modlib.batches import image_getter
from modlib.datasets import AttributeImages, load_celeba, load_toy_faces
from modlib.epochs import every_epoch, train_to_the_end
from modlib.errors import ModlibError
from modlib.evaluation import TEST_SEED, final_results, parameter_counts
from modlib.held_out import without_test
from modlib.image_cache import available_cores
from modlib.image_folder import load_image_folder
from modlib.kept_runs import checkpoint_path, kept_record
from modlib.machine import choose_device
from modlib.networks import build_network, take_trunk
from modlib.probes import probe_modes
from modlib.results import resolve
from modlib.settings import Places, RunSettings, Settings
from modlib.task_networks import Network
from modlib.training import train
from modlib.triplets import benchmark_triplets
from modlib.worker_pools import Rounds, in_given_executor, in_own_pools
from modlib.zappos import load_zappos


def load_data(settings: Settings, places: Places) -> AttributeImages:
    """The images and the labels of ``settings.tasks``."""
    if settings.dataset == "toy_faces":
        return load_toy_faces(settings.toy_images, settings.image_size, settings.tasks)
    if places.data_root is None:
        raise ModlibError(
            f"dataset {settings.dataset!r} needs data_root: the folder or zip archive that holds "
            "it; given None")
    load = {"celeba": load_celeba, "zappos": load_zappos,
            "folder": load_image_folder}[settings.dataset]
    return load(
        resolve(places.data_root), tasks=settings.tasks, image_size=settings.image_size,
        cache_dir=places.cache_dir and resolve(places.cache_dir), skip_broken=places.skip_broken,
        crop=settings.crop)


def run(
    settings: Settings,
    places: Places,
    on_epoch: Callable[[Settings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Do one run and return its record; a run that is done is read, one that was cut goes on.

    Args:
        settings: what to run. A system on a trained trunk (``"mask_only"``) first does the run
            that the trunk comes from, or reads its record.
        places: where data, records and checkpoints are, and the device.
        on_epoch: called with the settings and each epoch's metrics as training yields them.
    """
    data = load_data(settings, places)

    def work(checkpoint: Path, device: torch.device) -> tuple[list, dict[str, Any]]:
        # Before training: what cannot be tested is told now.
        test_triplets = settings.final_test and benchmark_triplets(
            data, "test", settings.test_triplets, TEST_SEED)
        get_images, origin = image_getter(data, device), {}
        if settings.trunk_from:
            origin = {"trunk_from": run(settings.trunk_from, places)["name"]}
        network = _untrained_network(settings, places, data, get_images)
        epochs = every_epoch(
            train(network, data, settings, checkpoint, get_images), settings, on_epoch)
        if settings.final_probes and network.shared_parameters():
            origin |= {"probes": probe_modes(
                network, *without_test(data, get_images), settings)}
        if not settings.final_test:
            return epochs, origin | {"parameters": parameter_counts(network)}
        return epochs, origin | final_results(network, data, settings, get_images, test_triplets)

    return kept_record(settings, places, data, work)


def new_network(settings: Settings) -> Network:
    """The settings' network, freshly initialised, on the CPU."""
    names = inspect.signature(build_network).parameters
    network = build_network(**{name: getattr(settings, name) for name in names})
    if settings.compiled:
        network.forward = torch.compile(network.forward)
        network.embed_all_tasks = torch.compile(network.embed_all_tasks)
    return network


def _untrained_network(settings, places, data, get_images) -> Network:
    """A run's network before its training: fresh, or on the trunk of another run."""
    network, of_trunk = new_network(settings).to(choose_device(places.device)), settings.trunk_from
    if of_trunk:
        its_data = data if of_trunk.tasks == settings.tasks else load_data(of_trunk, places)
        take_trunk(network, trained_network(of_trunk, places, its_data, get_images))
    return network


def trained_network(
    settings: Settings,
    places: Places,
    data: AttributeImages,
    get_images: Callable[[torch.Tensor], torch.Tensor],
) -> Network:
    """The network of a run, from its last checkpoint; what the checkpoint lacks is trained again.

    Args:
        data: the run's data; images and network are on the device of ``places``.
        get_images: as :func:`modlib.batches.image_getter` makes it.
    """
    network = _untrained_network(settings, places, data, get_images)
    checkpoint = checkpoint_path(settings, places, data.fingerprint)
    train_to_the_end(train(network, data, settings, checkpoint, get_images), checkpoint)
    return network


def run_many(
    settings: Iterable[RunSettings],
    places: Places,
    executor: Executor | None = None,
    on_epoch: Callable[[RunSettings, dict[str, Any]], None] | None = None,
    on_done: Callable[[RunSettings, dict[str, Any]], None] | None = None,
    runner: Callable[..., dict[str, Any]] = run,
    load: Callable[[Any, Places], Any] = load_data,
) -> list[dict[str, Any]]:
    """Do several runs; each comes after the one that it starts from.

    Args:
        settings: the runs, in the order in which their records are returned.
        places: where data, records and checkpoints are, the device, and how many workers.
        executor: any ``concurrent.futures.Executor``. None: ``places.workers`` processes that
            share the cores (``OMP_NUM_THREADS`` is heard), each with a GPU of its own where there
            are as many, or, when that is 0, this process. A worker that is killed is replaced,
            and its run goes on.
        on_epoch: see :func:`run`; not called for runs on a given executor.
        on_done: called with the settings and the record of each run as it ends.
        runner: what does one run: :func:`run`, or another module's function with its arguments.
        load: from a run's settings and the places to the data that ``runner`` loads.

    Returns:
        the records, in the order of ``settings``.

    Raises:
        ModlibError: a worker of a given pool died; or workers are killed time after time.
    """
    settings = list(settings)
    if not settings:
        return []
    depths = [_runs_before(one) for one in settings]
    numbers = [[number for number, depth in enumerate(depths) if depth == here]
               for here in sorted(set(depths))]
    rounds = Rounds(settings, numbers, places, runner, on_epoch, on_done)
    if executor is not None:
        in_given_executor(executor, rounds)
    elif places.workers:
        sizes = {(one.image_size, one.crop): one for one in settings
                 if one.dataset != "toy_faces"}
        for one in sizes.values():  # decode once, before the workers would each do it
            load(one, places)
        # No more than here: who allows torch fewer, as with OMP_NUM_THREADS, has other work too.
        threads = min(torch.get_num_threads(), available_cores() // places.workers)
        in_own_pools(rounds, threads=max(1, threads))
    else:
        for number in chain.from_iterable(numbers):
            rounds.end(number, runner(settings[number], places, on_epoch))
    return [rounds.records[number] for number in range(len(settings))]


def _runs_before(settings: RunSettings) -> int:
    """How many runs must come before this one, each the start of the next."""
    return 0 if settings.trunk_from is None else 1 + _runs_before(settings.trunk_from)
