"""A file has its name only when it is whole; what cannot be had is told with how to place it."""

import errno
import hashlib
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from fault_runs import SERVER

from modlib import download as module
from modlib.download import Wanted, download, fetch, wanted_files
from modlib.errors import ModlibError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Host(BaseHTTPRequestHandler):
    """Sends the file; by the address also half of it, a web page, or another file."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        begin = int((self.headers.get("Range") or "bytes=0-").split("=")[1].rstrip("-"))
        if "absent" in self.path or begin >= len(CONTENT):
            return self.send_error(416 if begin else 404)
        content = b"<html>Quota exceeded</html>" if "quota" in self.path else CONTENT
        content = b"other" if "other" in self.path else content
        ranged = begin and "whole" not in self.path
        content = content[begin:] if ranged else content
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if "quota" in self.path
                         else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if "slow" in self.path:  # a tenth of a second each tenth
            for begin in range(0, len(content), len(content) // 10):
                self.wfile.write(content[begin:begin + len(content) // 10])
                time.sleep(0.1)
            return None
        self.wfile.write(content[:len(content) // 2] if "breaks" in self.path else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def host():
    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
        server.asked = []
        server.base = f"http://127.0.0.1:{server.server_port}/"
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def names(folder) -> list[str]:
    """All but the locks, which stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_comes_whole_and_once(host, tmp_path):
    files = [Wanted(name, MD5, (host.base + name,)) for name in ("one.zip", "two.txt")]
    download(files, tmp_path / "new")
    download(files, tmp_path / "new")
    assert names(tmp_path / "new") == ["one.zip", "two.txt"]
    assert (tmp_path / "new/one.zip").read_bytes() == CONTENT
    assert host.asked == [("/one.zip", None), ("/two.txt", None)]


@pytest.mark.parametrize("answers", ["ranges", "whole"])
def test_what_broke_off_goes_on_from_there(host, tmp_path, answers):
    path = tmp_path / "one.zip"
    with pytest.raises(ModlibError, match=r"broke off: 512,000 of 1,024,000 bytes came; the next"):
        fetch(host.base + "breaks", path, MD5)
    assert names(tmp_path) == ["one.zip.part"]
    fetch(host.base + answers, path, MD5)
    assert host.asked[-1] == (f"/{answers}", "bytes=512000-")
    assert names(tmp_path) == ["one.zip"] and path.read_bytes() == CONTENT


def download_in_a_process(start, files, folder) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    start.wait(60)
    download(files, folder)


def two_processes(host, folder):
    """Both at the same slow file, from the same moment."""
    files, start = [Wanted("one.zip", MD5, (host.base + "slow",))], SERVER.Barrier(3)
    both = [SERVER.Process(target=download_in_a_process, args=(start, files, folder))
            for _ in range(2)]
    for one in both:
        one.start()
    start.wait(60)  # not before both are there: the barrier ends with this function
    return both


@pytest.mark.parametrize("there", [0, 1000])
def test_of_two_processes_one_fetches_and_the_other_waits(host, tmp_path, there):
    if there:
        (tmp_path / "one.zip.part").write_bytes(CONTENT[:there])
    both = two_processes(host, tmp_path)
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    assert names(tmp_path) == ["one.zip"] and (tmp_path / "one.zip").read_bytes() == CONTENT
    assert len(host.asked) == 1


def test_when_the_one_is_killed_the_other_goes_on_from_its_part(host, tmp_path):
    part, (first, second) = tmp_path / "one.zip.part", two_processes(host, tmp_path)
    while second.is_alive() and not (part.exists() and part.stat().st_size > 0):
        time.sleep(0.01)
    first.kill()  # whether it was fetching or waiting
    second.join(60)
    assert second.exitcode == 0 and (tmp_path / "one.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_only_gets_its_name(host, tmp_path):
    (tmp_path / "one.zip.part").write_bytes(CONTENT)
    fetch(host.base, tmp_path / "one.zip", MD5)
    assert names(tmp_path) == ["one.zip"]


@pytest.mark.parametrize(("address", "said"), [
    ("quota", "sends a web page, not the file. Most often the host's quota"),
    ("other", f"has the MD5 {hashlib.md5(b'other').hexdigest()}, not {MD5}"),
    ("absent", "answers 404")])
def test_what_is_not_the_file_is_refused_and_not_kept(host, tmp_path, address, said):
    with pytest.raises(ModlibError) as caught:
        download([Wanted("one.zip", MD5, (host.base + address,))], tmp_path)
    assert said in str(caught.value) and "one.zip" in str(caught.value)
    assert names(tmp_path) == []


def test_a_host_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModlibError, match=r"one\.zip: .* cannot be reached"):
        download([Wanted("one.zip", MD5, ("http://127.0.0.1:1/one.zip",))], tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_without_room_is_no_host_out_of_reach(host, tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(module, "copyfileobj", full)
        with pytest.raises(ModlibError) as caught:
            fetch(host.base + "one.zip", tmp_path / "one.zip", MD5)
    said = str(caught.value)
    assert f"{tmp_path}/one.zip.part cannot be written" in said and os.strerror(number) in said
    assert "reached" not in said
    fetch(host.base + "one.zip", tmp_path / "one.zip", MD5)
    assert (tmp_path / "one.zip").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_named(host, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ModlibError, match=r"the folder of files .*taken/deeper cannot be written"):
        download([Wanted("one.zip", MD5, (host.base,))], tmp_path / "taken/deeper")


def test_the_next_address_is_tried_and_one_file_does_not_hold_up_the_others(host, tmp_path):
    files = [Wanted("lost.zip", MD5, (host.base + "quota", host.base + "absent")),
             Wanted("found.zip", MD5, (host.base + "quota", host.base + "found"))]
    with pytest.raises(ModlibError) as caught:
        download(files, tmp_path)
    assert names(tmp_path) == ["found.zip"]
    assert "web page" in str(caught.value) and "404" in str(caught.value)


def test_a_file_of_ones_own_is_never_written_over(host, tmp_path):
    (tmp_path / "one.zip").write_bytes(b"mine")
    with pytest.raises(ModlibError, match=r"^\S+ is there, but its MD5 is .*: move it away$"):
        download([Wanted("one.zip", MD5, (host.base, host.base))], tmp_path)
    assert (tmp_path / "one.zip").read_bytes() == b"mine" and host.asked == []


def test_a_folder_can_be_a_mirror(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/one.zip").write_bytes(CONTENT)
    fetch((tmp_path / "there/one.zip").as_uri(), tmp_path / "one.zip", MD5)
    assert (tmp_path / "one.zip").read_bytes() == CONTENT


def test_celeba_is_what_modlib_reads_of_torchvisions_list():
    files = {file.name: file for file in wanted_files("celeba", "https://mirror.example/celeba")}
    assert set(files) == set(module.BYTES) and len(files) == 4
    images = files["img_align_celeba.zip"]
    assert images.md5 == "00d2c5bc6d35e252742224ab0c1e8fcb"
    assert images.urls[1] == "https://mirror.example/celeba/img_align_celeba.zip"
    assert [len(file.urls) for file in wanted_files("celeba")] == [1] * 4


def test_mnist_lies_at_torchvisions_mirrors():
    files = wanted_files("mnist", "https://mirror.example/")
    assert len(files) == 4 and all(file.name.endswith(".gz") for file in files)
    assert files[0].urls[-1] == f"https://mirror.example/{files[0].name}"
    assert len(files[0].urls) == 3


def called(monkeypatch, folder, *more: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["download", "celeba", str(folder), *more])
    try:
        return module.main()
    except SystemExit as ended:
        return ended.code


def test_the_command_says_how_to_place_by_hand_what_it_cannot_get(
        host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "DRIVE", host.base + "quota?")
    assert called(monkeypatch, tmp_path) == 2
    said = capsys.readouterr().err
    assert "quota" in said and "Traceback" not in said
    assert "img_align_celeba.zip  MD5 00d2c5bc6d35e252742224ab0c1e8fcb  1,443,490,838 bytes" in said
    assert f"put them, as they are, in {tmp_path}" in said


def test_the_command_ends_well_when_all_is_there(host, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "DRIVE", host.base)
    monkeypatch.setattr(module.CelebA, "file_list",
                        [(name, MD5, name) for name in module.BYTES])
    assert called(monkeypatch, tmp_path) is None
    assert "their sums are right" in capsys.readouterr().out
    assert names(tmp_path) == sorted(module.BYTES)


def test_a_mirror_that_is_no_address_is_refused(tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, tmp_path, "--mirror", "a.host/files") == 2
    assert "mirror 'a.host/files' is no address" in capsys.readouterr().err
