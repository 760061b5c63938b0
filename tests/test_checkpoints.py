"""Epochs are done once, whenever the run is cut; a checkpoint is whole, and of one run alone."""

import os

import pytest
import torch
from torch import nn

from modlib.checkpoints import (
    finished_epochs,
    load_checkpoint,
    save_checkpoint,
)
from modlib.epochs import resumable_epochs
from modlib.errors import ModlibError


class Work:
    """A layer and its optimiser; an epoch is a step away from what the layer is."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.network = nn.Linear(3, 2)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=0.1)
        self.done: list[int] = []

    def one_epoch(self, epoch: int) -> dict:
        self.optimiser.zero_grad()
        (self.network.weight.square().sum() + epoch * self.network.bias.sum()).backward()
        self.optimiser.step()
        self.done.append(epoch)
        return {"epoch": epoch + 1, "loss": self.network.weight.square().sum().item()}

    def run(self, epochs: int, checkpoint=None, identity: str = "this run") -> list[dict]:
        told = resumable_epochs(
            self.one_epoch, epochs, checkpoint, identity, self.network, self.optimiser)
        return [{k: v for k, v in one.items() if k != "seconds"} for one in told]

    def state(self) -> list:
        return [*self.network.state_dict().values(),
                *(value for of_one in self.optimiser.state_dict()["state"].values()
                  for value in of_one.values())]


def assert_same(one: Work, other: Work) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.state(), other.state(), strict=True))


# Epochs

@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_goes_on_after_its_last_checkpoint_to_the_same_end(tmp_path, done):
    unbroken, cut, resumed = Work(), Work(), Work(seed=1)
    expected = unbroken.run(3)
    cut.run(done, tmp_path / "run.pt")
    assert resumed.run(3, tmp_path / "run.pt") == expected
    assert resumed.done == list(range(done, 3))
    assert_same(resumed, unbroken)


def test_an_epoch_is_kept_before_it_is_told(tmp_path):
    work, path = Work(), tmp_path / "run.pt"
    told = []
    for metrics in resumable_epochs(
            work.one_epoch, 3, path, "this run", work.network, work.optimiser):
        told.append(metrics)
        assert torch.load(path)["history"] == told


def test_an_epoch_that_fails_leaves_the_checkpoint_before_it(tmp_path):
    work, path = Work(), tmp_path / "run.pt"

    def fails_at_the_second(epoch):
        if epoch == 1:
            raise ModlibError("a planted failure")
        return work.one_epoch(epoch)

    with pytest.raises(ModlibError, match="a planted failure"):
        list(resumable_epochs(fails_at_the_second, 3, path, "this run", work.network,
                              work.optimiser))
    resumed = Work(seed=1)
    assert [one["epoch"] for one in resumed.run(3, path)] == [1, 2, 3]
    assert resumed.done == [1, 2]


def test_seconds_are_those_of_each_epoch_and_are_kept(tmp_path, monkeypatch):
    clock = iter([10.0, 12.5, 20.0, 21.0])
    monkeypatch.setattr("modlib.epochs.time.perf_counter", lambda: next(clock))
    for _ in range(2):  # the second time from the checkpoint alone
        work = Work()
        told = list(resumable_epochs(work.one_epoch, 2, tmp_path / "run.pt", "this run",
                                     work.network, work.optimiser))
        assert [one["seconds"] for one in told] == [2.5, 1.0]


def test_without_a_checkpoint_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(Work().run(2)) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoints_folder_is_made(tmp_path):
    Work().run(1, tmp_path / "some" / "folder" / "run.pt")
    assert [path.name for path in (tmp_path / "some/folder").iterdir()] == ["run.pt"]


def test_a_checkpoint_of_another_run_is_refused_with_both_names_and_nothing_is_done(tmp_path):
    Work().run(1, tmp_path / "run.pt", "that run")
    work, before = Work(seed=1), Work(seed=1)
    with pytest.raises(ModlibError, match=r"run\.pt belongs to that run, not to this run"):
        work.run(2, tmp_path / "run.pt")
    assert work.done == []
    assert_same(work, before)


# Files

def test_network_optimiser_and_history_survive_the_round_trip(tmp_path):
    work, loaded = Work(), Work(seed=1)
    history = work.run(2)
    save_checkpoint(tmp_path / "run.pt", "this run", work.network, work.optimiser, history)
    assert load_checkpoint(tmp_path / "run.pt", "this run", loaded.network,
                           loaded.optimiser) == history
    assert_same(loaded, work)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(ModlibError, match=r"(?s)run\.pt cannot be read .*delete it, and the"):
        Work().run(1, tmp_path / "run.pt")


def test_a_write_that_fails_leaves_the_file_before_and_no_other(tmp_path, monkeypatch):
    work, path = Work(), tmp_path / "run.pt"
    save_checkpoint(path, "this run", work.network, work.optimiser, [{"epoch": 1}])

    def full(_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(
            ModlibError, match=r"the checkpoint .*run\.pt cannot be written: no space"):
        patched.setattr(os, "fsync", full)
        save_checkpoint(path, "this run", work.network, work.optimiser, [{"epoch": 2}])
    assert [one.name for one in tmp_path.iterdir()] == ["run.pt"]
    assert load_checkpoint(path, "this run", work.network, work.optimiser) == [{"epoch": 1}]


def test_a_flipped_bit_of_any_tensor_is_found(tmp_path):
    work, path = Work(), tmp_path / "run.pt"
    history = work.run(1)
    save_checkpoint(path, "this run", work.network, work.optimiser, history)
    whole = path.read_bytes()
    for value in [work.network.weight.data, work.optimiser.state_dict()["state"][0]["exp_avg"]]:
        content, found = bytearray(whole), whole.index(value.numpy().tobytes())
        content[found + 2] ^= 1  # of the mantissa: a number like any other
        path.write_bytes(content)
        resumed, before = Work(seed=1), Work(seed=1)
        with pytest.raises(ModlibError, match=(
                r"run\.pt cannot be read \(BadZipFile: .*data/\d+ is not what its checksum says"
                r".*\); delete it, and the run starts afresh")):
            resumed.run(2, path)
        assert resumed.done == []
        assert_same(resumed, before)


@pytest.mark.parametrize("part", ["network", "optimiser"])
@pytest.mark.parametrize("change", [
    lambda state: {}, lambda state: None, lambda state: dict(list(state.items())[1:]),
    lambda state: state | {"state": {0: 1}, "param_groups": [{}], "more": 1}])
def test_a_checkpoint_that_does_not_fit_is_named_with_what_does_not(tmp_path, part, change):
    work, path = Work(), tmp_path / "run.pt"
    work.run(1, path)
    state = torch.load(path)
    torch.save(state | {part: change(state[part])}, path)
    with pytest.raises(ModlibError, match=(
            rf"run\.pt does not fit: its {part} is not this run's .*delete it, and the run st")):
        Work(seed=1).run(2, path)


def test_finished_epochs_are_counted_without_the_network(tmp_path):
    network, path = nn.Linear(2, 2), tmp_path / "run.pt"
    assert finished_epochs(path) == 0
    save_checkpoint(path, "a run", network, torch.optim.Adam(network.parameters()), [{}, {}])
    assert finished_epochs(path) == 2
    path.write_bytes(b"torn")
    with pytest.raises(ModlibError, match="cannot be read"):
        finished_epochs(path)
