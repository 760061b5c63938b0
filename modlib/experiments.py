"""From settings to a record: load, train, evaluate, write; skip what is done, resume the rest."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modlib.datasets import AttributeImages, load_celeba, load_toy_faces
from modlib.errors import ModlibError
from modlib.evaluation import embed_images, triplet_accuracy
from modlib.image_cache import available_cores
from modlib.machine import choose_device, git_commit, make_deterministic, run_facts
from modlib.modulation import ChannelScale
from modlib.networks import Network, build_network, count_parameters
from modlib.results import RECORD_VERSION, read_record, resolve, write_json
from modlib.settings import Places, Settings
from modlib.training import image_getter, train
from modlib.triplets import fixed_triplets

TEST_SEED = 2  # the benchmark's triplets; the validation split has a seed of its own


def load_data(settings: Settings, places: Places) -> AttributeImages:
    """The images and the labels of ``settings.tasks``."""
    if settings.dataset == "toy_faces":
        return load_toy_faces(settings.toy_images, settings.image_size, settings.tasks)
    if places.data_root is None:
        raise ModlibError(
            "dataset 'celeba' needs data_root: the folder or zip archive that holds CelebA; "
            "given None")
    return load_celeba(
        resolve(places.data_root), tasks=settings.tasks, image_size=settings.image_size,
        cache_dir=places.cache_dir and resolve(places.cache_dir), skip_broken=places.skip_broken)


def record_path(settings: Settings, places: Places, fingerprint: str) -> Path:
    """Where the record of this run is, or will be."""
    return resolve(places.results_dir) / f"{settings.run_name(fingerprint)}.json"


def run(
    settings: Settings,
    places: Places,
    on_epoch: Callable[[Settings, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Do one run and return its record; a run that is done is read, one that was cut goes on.

    Args:
        settings: what to run.
        places: where data, records and checkpoints are, and the device.
        on_epoch: called with the settings and each epoch's metrics as training yields them.
    """
    data = load_data(settings, places)
    path = record_path(settings, places, data.fingerprint)
    if path.exists():
        return read_record(path)
    device, commit = choose_device(places.device), git_commit()
    make_deterministic()
    test_triplets = fixed_triplets(
        data.labels_NT, data.indices("test"), data.tasks, settings.test_triplets, TEST_SEED,
        where=" in the test split")  # before training: a split that cannot be tested on is told now
    network = build_network(
        settings.system, settings.tasks, settings.image_size, settings.width,
        settings.modulate_from, settings.embedding_size, settings.bn_decay, settings.seed,
    ).to(device)
    checkpoint = resolve(places.checkpoint_dir) / f"{path.stem}.pt"
    get_images = image_getter(data, device)
    started = time.perf_counter()
    epochs = []
    for metrics in train(network, data, settings, checkpoint, get_images):
        epochs.append(metrics)
        if on_epoch:
            on_epoch(settings, metrics)
    record = {
        "version": RECORD_VERSION,
        "name": path.stem,
        "status": "done",
        "settings": settings.as_dict(),
        "data": {"fingerprint": data.fingerprint, "source": data.source,
                 "images": {split: len(data.indices(split)) for split in
                            ("train", "valid", "test")}},
        "results": final_results(network, data, settings, get_images, test_triplets),
        "epochs": epochs,
        "run": run_facts(epochs, device, time.perf_counter() - started, commit),
    }
    write_json(path, record)
    return record


def final_results(
    network: Network,
    data: AttributeImages,
    settings: Settings,
    get_images: Callable[[torch.Tensor], torch.Tensor],
    triplets_TK3: np.ndarray,
) -> dict[str, Any]:
    """Test accuracy on the fixed triplets, parameter counts, and what became of the scales."""
    test = data.indices("test")
    embeddings_TND = embed_images(
        network, get_images, torch.from_numpy(test), settings.precision)
    positions = torch.from_numpy(np.searchsorted(test, triplets_TK3)).to(embeddings_TND.device)
    accuracy_T = triplet_accuracy(embeddings_TND, positions)
    results = {
        "test_accuracy": dict(zip(settings.tasks, accuracy_T.tolist(), strict=True)),
        "parameters": {"total": count_parameters(network.parameters()),
                       "shared": count_parameters(network.shared_parameters()),
                       "task": count_parameters(network.task_parameters())},
    }
    if settings.system == "modulated":
        scales_TC = network.task_scales().detach().cpu()
        results["dead_scales"] = sum(
            m.dead() for m in network.modules() if isinstance(m, ChannelScale))
        results["w_distance"] = [
            {"tasks": [settings.tasks[i], settings.tasks[j]],
             "mean": float((scales_TC[i] - scales_TC[j]).abs().mean()),
             "variance": float((scales_TC[i] - scales_TC[j]).abs().var(unbiased=False))}
            for i in range(len(scales_TC)) for j in range(i + 1, len(scales_TC))
        ]
    return results


def _run_in_worker(settings: Settings, places: Places, threads: int) -> dict[str, Any]:
    if threads:
        torch.set_num_threads(threads)
    return run(settings, places)


def run_many(
    settings: Iterable[Settings],
    places: Places,
    executor: Executor | None = None,
    on_epoch: Callable[[Settings, dict[str, Any]], None] | None = None,
    on_done: Callable[[Settings, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Do several runs; they are independent of each other.

    Args:
        settings: the runs, in the order in which their records are returned.
        executor: any ``concurrent.futures.Executor``. None: ``places.workers`` processes that
            share the cores, or, when that is 0, this process.
        on_epoch: see :func:`run`; only called for runs in this process.
        on_done: called with the settings and the record of each run as it ends.

    Returns:
        the records, in the order of ``settings``.
    """
    settings = list(settings)
    if not settings:
        return []
    if executor is None and places.workers == 0:
        records = []
        for one in settings:
            records.append(run(one, places, on_epoch))
            if on_done:
                on_done(one, records[-1])
        return records
    if executor is None:
        sizes = {one.image_size: one for one in settings if one.dataset == "celeba"}
        for one in sizes.values():  # decode once, before the workers would each do it
            load_data(one, places)
        threads = max(1, available_cores() // places.workers)
        with ProcessPoolExecutor(places.workers, mp_context=get_context("spawn")) as pool:
            return _collect(pool, settings, places, threads, on_done)
    return _collect(executor, settings, places, 0, on_done)


def _collect(executor, settings, places, threads, on_done) -> list[dict[str, Any]]:
    futures = {executor.submit(_run_in_worker, one, places, threads): number
               for number, one in enumerate(settings)}
    records: list[Any] = [None] * len(settings)
    for future in as_completed(futures):
        try:
            records[futures[future]] = future.result()
        except Exception as error:
            for other in futures:  # those that run end and keep their records; none is begun
                other.cancel()
            failed = settings[futures[future]]
            error.add_note(f"in the run of {failed.system} on {', '.join(failed.tasks)}, "
                           f"seed {failed.seed}")
            raise
        if on_done:
            on_done(settings[futures[future]], records[futures[future]])
    return records
