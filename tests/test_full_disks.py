"""On a disk that is really full every writer says what it cannot write, and leaves nothing torn."""

import errno
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image
from slow_networks import SMALL, TASKS, small
from small_celeba import IDS, official, write
from torch import nn

from modlib import image_folder, onnx_export, soak, throughput, tidy
from modlib.celeba_part import write_part
from modlib.checkpoints import load_checkpoint, save_checkpoint
from modlib.download import Wanted, download
from modlib.errors import ModlibError
from modlib.onnx_export import export_onnx
from modlib.own_data import write_example
from modlib.results import read_with_keys, write_record
from modlib.settings import Settings
from modlib.weights import TrainedNetwork, load, save

INODES = 60
BYTES = 8 * 2**20


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, and functions that fill it up and make room again."""
    root = tmp_path / "disk"
    root.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={BYTES},nr_inodes={INODES}", "tmpfs",
                        str(root)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a tmpfs; planted faults are tried elsewhere")
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True)


def fill(root: Path, what: str) -> list[Path]:
    """Take all that is left of the bytes, or of the files that may be made; the files that do."""
    filler, number = [root / "filler"], 0
    filler[0].touch()
    with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}"):
        while what == "files":
            number += 1
            filler.append(root / f"filler{number}")
            filler[-1].touch()
        with filler[0].open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    return filler


# Writers: each gets a folder, and returns what it has read of what it wrote there.


def a_record(folder):
    write_record(folder / "a.json", {"value": 1})
    return read_with_keys(folder / "a.json", ["value"], signed=True)


def a_soak_record(folder):
    soak.write_soak(dict.fromkeys(soak.FIGURES, 10**6), ["tests"], [], 1.0, "commit", folder)
    return soak.last_soak(folder)["passed"]


def a_throughput_record(folder):
    written = dict.fromkeys(throughput.KEYS, "") | {
        "device": "cpu", "processor": "any", "systems": {"csn": {"images_per_second": 1}}}
    return throughput.read(throughput.write(written, folder))


def a_checkpoint(folder):
    network = nn.Linear(2, 2)
    optimiser = torch.optim.SGD(network.parameters())
    save_checkpoint(folder / "a.pt", "it", network, optimiser, [{"epoch": 1}])
    return load_checkpoint(folder / "a.pt", "it", network, optimiser)


def a_cache_of_images(folder):
    images = folder.parents[1] / "photos"  # not on the disk that is full
    if not images.exists():
        images.mkdir()
        for n in range(60):
            Image.new("RGB", (20, 20), (4 * n, 0, 0)).save(images / f"{n}.png")
        lines = [f"{n}.png,{n % 2}" for n in range(60)]
        (images / "attributes.csv").write_text("\n".join(["image,Odd", *lines]))
    return image_folder.load_image_folder(
        images, image_size=16, cache_dir=folder, progress=False).images_NCHW.shape


def weights(folder):
    settings = Settings(system="modulated", tasks=TASKS, modulate_from=4, bn_decay=0.995, **SMALL)
    save(TrainedNetwork(small("modulated", modulate_from=4).eval(), settings), folder / "a")
    return load(folder / "a").settings == settings


def an_onnx_file(folder):
    return export_onnx(SimpleNamespace(settings=Settings()), folder / "a").read_bytes()


def an_example(folder):
    write_example(folder / "example", 20, 48)
    return len(list((folder / "example/faces").iterdir())), (
        folder / "example/attributes.csv").read_text("utf8").count("\n")


def a_table(folder):
    tidy._write_csv(pd.DataFrame({"n": range(5000)}), folder / "a.csv")
    return len(pd.read_csv(folder / "a.csv"))


def a_download(folder):
    source, content = folder.parents[1] / "source", bytes(range(256)) * 40
    source.write_bytes(content)
    download([Wanted("a.zip", hashlib.md5(content).hexdigest(), (source.as_uri(),))], folder)
    return (folder / "a.zip").read_bytes() == content


def a_part_of_celeba(folder):
    celeba = folder.parents[1] / "celeba"
    write(celeba, official())
    with zipfile.ZipFile(write_part(celeba, folder / "a.zip", IDS)) as archive:
        return archive.testzip(), len(archive.namelist())


WRITERS = [a_record, a_soak_record, a_throughput_record, a_checkpoint, a_cache_of_images, weights,
           an_onnx_file, an_example, a_table, a_download, a_part_of_celeba]


@pytest.fixture(autouse=True)
def exported(monkeypatch):
    """An export that takes no time: what is tried is its writing."""
    model = SimpleNamespace(SerializeToString=lambda: bytes(10**5))
    monkeypatch.setattr(onnx_export, "_exported", lambda trained: SimpleNamespace(
        model=SimpleNamespace(metadata_props={}), model_proto=model))


@pytest.mark.filterwarnings("ignore:.*cannot be locked.*No space left")
@pytest.mark.parametrize("folder_is_there", [True, False])
@pytest.mark.parametrize("what", ["bytes", "files"])
@pytest.mark.parametrize("writer", WRITERS, ids=lambda one: one.__name__)
def test_a_full_disk_is_said_and_leaves_nothing_torn(disk, writer, what, folder_is_there):
    expected = writer(disk / "before")
    folder = disk / "folder"
    if folder_is_there:
        folder.mkdir()
    filler = fill(disk, what)
    with pytest.raises(ModlibError) as caught:
        writer(folder)
    said = str(caught.value)
    assert str(folder) in said
    assert "No space left on device" in said or "0.00 GB free" in said  # the cache looks before
    left = [path for path in folder.rglob("*") if path.suffix not in (".lock", ".part")]
    assert left == []
    for one in filler:
        one.unlink(missing_ok=True)
    assert writer(folder) == expected
    assert {path.relative_to(folder) for path in folder.rglob("*")} == {
        path.relative_to(disk / "before") for path in (disk / "before").rglob("*")}


def test_every_module_that_writes_whole_files_is_tried():
    """A new writer belongs into the list above, or into ``test_faults`` and ``test_batch``."""
    root = Path(sys.modules["modlib"].__file__).parent
    uses = {path.stem for path in root.glob("*.py")
            if "written_whole(" in path.read_text("utf8")}
    assert uses == {"celeba_part", "checkpoints", "executed_copies", "image_cache", "onnx_export",
                    "results", "tidy", "weight_files", "whole_files"}
