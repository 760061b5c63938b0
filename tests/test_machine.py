"""A run knows its device, and a record the commit of the code that made it."""

import ctypes
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch

from modlib import machine
from modlib.errors import ModlibError
from modlib.machine import (
    HEAP_BYTES,
    choose_device,
    device_failures,
    device_in_words,
    git_commit,
    is_out_of_memory,
    keep_freed_memory,
    run_facts,
)

CPU = torch.device("cpu")


def test_images_per_second_are_all_images_over_all_seconds():
    epochs = [{"seconds": 2.0, "images": 100}, {"seconds": 3.0, "images": 150}]
    facts = run_facts(epochs, CPU, 9.0, "commit")
    assert (facts["images_per_second"], facts["training_seconds"],
            facts["last_session_seconds"], facts["git_commit"]) == (50.0, 5.0, 9.0, "commit")


@pytest.mark.parametrize(("device", "said"), [
    ("cpu (1 threads of 2 cores)", "cpu (1 thread of 2 cores)"),
    ("cpu (11 threads of 12 cores)", "cpu (11 threads of 12 cores)"),
    ("NVIDIA H200", "NVIDIA H200"),
])
def test_one_thread_is_no_threads(device, said):
    assert device_in_words(device) == said


@pytest.mark.parametrize("name", ["mps", "meta"])
def test_a_device_that_modlib_cannot_use_is_refused(name):
    with pytest.raises(ModlibError, match=f"device must be auto, cpu or cuda; given '{name}'"):
        choose_device(name)



def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModlibError, match="'cuda:1' was asked for, but torch sees no CUDA"):
        choose_device("cuda:1")



@pytest.mark.parametrize(("available", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_one(monkeypatch, available, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device("auto") == torch.device(chosen)
    assert choose_device("cpu") == CPU



def stand_in(root, monkeypatch):
    """As if the project were at ``root``, and worked in from there."""
    monkeypatch.setattr(machine, "__file__", str(root / "modlib/machine.py"))
    monkeypatch.chdir(root)


def committed(root) -> str:
    """Commit all of a new repository; return the commit."""
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True).strip()



def test_the_commit_of_a_changed_modlib_is_marked(tmp_path, monkeypatch):
    source = tmp_path / "modlib/experiments.py"
    source.parent.mkdir()
    source.write_text("a = 1\n")
    (tmp_path / "_toc.yml").touch()
    commit = committed(tmp_path)
    stand_in(tmp_path, monkeypatch)
    assert git_commit() == commit
    (tmp_path / "_toc.yml").write_text("changed, but not of modlib")
    assert git_commit() == commit
    assert git_commit("_toc.yml") == f"{commit}-dirty"
    source.write_text("a = 2\n")
    assert git_commit() == f"{commit}-dirty"



def test_outside_git_the_commit_is_unknown(tmp_path, monkeypatch):
    (tmp_path / "modlib").mkdir()
    stand_in(tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() == "unknown"



def test_inside_a_repository_that_is_not_its_own_the_commit_is_unknown(tmp_path, monkeypatch):
    (tmp_path / "packages/modlib").mkdir(parents=True)
    (tmp_path / "file").touch()
    committed(tmp_path)
    stand_in(tmp_path / "packages", monkeypatch)
    assert git_commit() == "unknown"



def test_working_inside_another_repository_does_not_change_the_commit(tmp_path, monkeypatch):
    before = git_commit()
    (tmp_path / "file").touch()
    committed(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert git_commit() == before


@pytest.mark.parametrize(("batch_size", "smallest", "said"), [
    (180, 9, "try batch_size=90 in the place of 180"),
    (61, 60, "try batch_size=60 in"),
    (60, 60, "its batch_size of 60 is the smallest for its tasks, so try a smaller image_size"),
    (1, 1, "its batch_size of 1 is the smallest"),
])
def test_out_of_memory_comes_with_a_batch_size_to_try(tmp_path, batch_size, smallest, said):
    with (pytest.raises(ModlibError, match=f"^the device is out of memory; {said}.*goes on from"),
          device_failures(batch_size, smallest, tmp_path)):
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("error", [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA driver error: out of memory",
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried",
])
def test_a_library_that_gets_no_memory_is_offered_a_smaller_batch(tmp_path, error):
    assert is_out_of_memory(RuntimeError(error))
    with (pytest.raises(ModlibError, match="is out of memory; try batch_size=90 in the place"),
          device_failures(180, 9, tmp_path)):
        raise RuntimeError(error)


@pytest.mark.parametrize("error", [
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "CUDA driver error: unspecified launch failure", "No CUDA GPUs are available",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
])
def test_a_device_that_fails_is_told_from_one_that_is_full(tmp_path, error):
    assert not is_out_of_memory(RuntimeError(error))
    with (pytest.raises(ModlibError, match=f"^the device failed; start a .*{re.escape(error)}"),
          device_failures(180, 9, tmp_path / "run.pt")):
        raise RuntimeError(error)


@pytest.mark.parametrize("error", [
    "mat1 and mat2 shapes cannot be multiplied", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "Expected all tensors to be on the same device, but found CUDA and cpu"])
def test_an_error_of_the_program_is_none_of_the_devices(tmp_path, error):
    with pytest.raises(RuntimeError, match=error), device_failures(180, 9, tmp_path):
        raise RuntimeError(error)


def test_an_error_that_is_a_modlib_error_already_stays(tmp_path):
    with (pytest.raises(ModlibError, match=r"^as it was$"), device_failures(180, 3, tmp_path)):
        raise ModlibError("as it was")


def test_freed_memory_is_kept_once_a_process():
    keep_freed_memory()
    keep_freed_memory()
    assert keep_freed_memory.cache_info().misses == 1
    assert torch.zeros(2**20).sum() == 0


def test_the_allocator_is_told_to_keep_everything_in_large_pages(monkeypatch):
    told, start = [], 10**6 + 1
    libc = SimpleNamespace(
        mallopt=lambda parameter, value: told.append((parameter, value)),
        malloc=lambda size: start, free=lambda address: told.append(("free", address)),
        madvise=lambda *arguments: told.append(arguments))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    keep_freed_memory.__wrapped__()
    *options, (address, size, advice), freed = told
    assert options == [(-4, 0), (-1, -1), (-2, 2**26)]  # of malloc.h, each a C int
    page = os.sysconf("SC_PAGESIZE")
    assert address % page == 0 and start <= address < address + size <= start + HEAP_BYTES
    assert advice == 14  # MADV_HUGEPAGE
    assert freed == ("free", start)


def test_without_so_much_address_space_the_heap_stays_as_it_is(monkeypatch):
    libc = SimpleNamespace(
        mallopt=lambda *_: None, malloc=lambda size: None, free=lambda _: pytest.fail("freed"),
        madvise=lambda *_: pytest.fail("advised"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    keep_freed_memory.__wrapped__()


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_elsewhere_than_on_glibc_nothing_is_asked_for(monkeypatch, error):
    def cannot_be_loaded(name):
        raise error(name)

    monkeypatch.setattr(ctypes, "CDLL", cannot_be_loaded)
    keep_freed_memory.__wrapped__()
