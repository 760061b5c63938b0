"""One at a time: the other waits and says so; a lock goes with its holder, and never stops work."""

import multiprocessing
import os
import signal
from functools import partial
from threading import Event, Thread

import pytest
from filelock import FileLock
from tqdm import tqdm

from modlib import locks
from modlib.locks import one_at_a_time


def hold_for_ever(path, held) -> None:
    with one_at_a_time(path):
        held.send("held")
        signal.pause()


def test_the_other_waits_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "WAITING_SECONDS", 0.05)
    monkeypatch.setattr(locks, "tqdm", partial(tqdm, disable=False))  # whatever TQDM_DISABLE says
    events, waiting, looked = [], Event(), []
    acquire = FileLock.acquire

    def seen(self, timeout):  # of the one that waits, as the first has the lock already
        looked.append(timeout)
        if len(looked) > 3:
            waiting.set()
        return acquire(self, timeout=timeout)

    def second():
        with one_at_a_time(tmp_path / "run.pt"):
            events.append("second")

    with one_at_a_time(tmp_path / "run.pt"):
        monkeypatch.setattr(FileLock, "acquire", seen)
        other = Thread(target=second)
        other.start()
        assert waiting.wait(30)
        events.append("first")
    other.join(30)
    assert events == ["first", "second"]
    assert "Another process is at run: waiting" in capsys.readouterr().err


def test_nobody_waits_for_another_file_or_says_anything(tmp_path, capsys):
    with one_at_a_time(tmp_path / "run.pt"), one_at_a_time(tmp_path / "deep/folder/run.pt"):
        pass
    with one_at_a_time(tmp_path / "run.pt"):  # again
        pass
    assert capsys.readouterr().err == ""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    holder = spawn.Process(target=hold_for_ever, args=(tmp_path / "run.pt", theirs))
    holder.start()
    assert ours.recv() == "held"
    assert not is_free(tmp_path / "run.pt")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(30)
    assert is_free(tmp_path / "run.pt")


def is_free(path) -> bool:
    try:
        with FileLock(f"{path}.lock", timeout=0):
            return True
    except TimeoutError:
        return False


def test_a_block_that_fails_lets_go(tmp_path):
    with pytest.raises(KeyError), one_at_a_time(tmp_path / "run.pt"):
        raise KeyError
    assert is_free(tmp_path / "run.pt")


def test_where_nothing_can_be_locked_the_work_is_done_with_a_warning(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    done = []
    with (pytest.warns(UserWarning, match=r"run\.pt cannot be locked .*No locks available"),
          one_at_a_time(tmp_path / "run.pt")):
        done.append(True)
    assert done
