"""The packed image cache: the same pixels as a plain loop, whole or refused."""

import io
import json
import multiprocessing
import os
import zipfile
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from modlib import image_cache, packed_images
from modlib.errors import ModlibError
from modlib.image_cache import decode_image, pack_images
from modlib.image_files import Files
from modlib.packed_images import HEADER_BYTES, MAGIC, open_images

COUNT, SIZE = 150, 16  # more than two chunks
Transpose = Image.Transpose
STORED = {  # by EXIF orientation: what was done to the upright image (CIPA DC-008, Orientation)
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270}


def encoded(mode="RGB", size=(24, 30), format="PNG", seed=0) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(COUNT):
        (folder / f"{n:06d}.png").write_bytes(encoded(seed=n))
    return folder


def pack(folder, path, **settings):
    names = Files(folder).names()
    defaults = {
        "identity": "abc", "source": "here", "rows": {"number": np.arange(len(names))},
        "notes": {"split": "official"}, "progress": False,
    }
    return pack_images(Files(folder), names, path, SIZE, **{**defaults, **settings})


def header_of(path) -> dict:
    return json.loads(path.read_bytes()[len(MAGIC) : HEADER_BYTES])


def leftovers(folder) -> list:
    return list(folder.glob("*.tmp"))


@pytest.mark.parametrize(
    ("mode", "format"),
    [("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("RGB", "BMP"), ("1", "TIFF"),
     ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP")],
)
@pytest.mark.parametrize("size", [(24, 30), (30, 24), (20, 20)])
def test_decode_is_crop_then_resize(mode, format, size):
    data = encoded(mode, size, format)
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    with Image.open(io.BytesIO(data)) as image:
        square = image.convert("RGB").crop((left, top, left + side, top + side))
    expected = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    decoded = decode_image(data, SIZE)
    assert decoded.shape == (3, SIZE, SIZE) and decoded.dtype == np.uint8
    # At the border the filter of the one-step resize also sees the pixels beyond the square.
    difference = np.abs(decoded.transpose(1, 2, 0).astype(int) - expected)
    assert difference[4:-4, 4:-4].max() <= 1


def test_decode_takes_the_centre():
    image = np.zeros((30, 20, 3), np.uint8)
    image[5:25] = (10, 20, 30)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    centre = decode_image(buffer.getvalue(), 20)
    assert (centre == np.array([10, 20, 30])[:, None, None]).all()


@pytest.mark.parametrize(("size", "format"), [((30, 40), "PNG"), ((600, 800), "JPEG")])
def test_a_crop_is_the_middle_of_the_centre_square(size, format):
    data = encoded(size=size, format=format)
    side = min(size) * 0.8
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    with Image.open(io.BytesIO(data)) as image:
        middle = image.convert("RGB").crop((left, top, left + side, top + side))
    expected = np.asarray(middle.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    decoded = decode_image(data, SIZE, crop=0.8).transpose(1, 2, 0).astype(int)
    assert np.abs(decoded - expected)[2:-2, 2:-2].mean() < 2
    assert np.abs(decode_image(data, SIZE).transpose(1, 2, 0) - expected.astype(int)).mean() > 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_that_says_how_it_was_held_is_turned_upright(orientation):
    with Image.open(io.BytesIO(encoded())) as upright:
        stored = upright.transpose(STORED[orientation]) if orientation > 1 else upright.copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    assert np.array_equal(decode_image(buffer.getvalue(), SIZE), decode_image(encoded(), SIZE))


def test_without_a_crop_the_whole_image_is_squeezed():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, :15], image[:, 45:] = 40, 200  # lost where only the centre is kept
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    whole = decode_image(buffer.getvalue(), 16, crop=None)
    assert (whole[:, :, 0] == 40).all() and (whole[:, :, -1] == 200).all()


def test_packed_images_are_cropped(folder, tmp_path):
    packed = pack(folder, tmp_path / "cache", crop=0.5)
    plain = [decode_image(p.read_bytes(), SIZE, crop=0.5) for p in sorted(folder.iterdir())]
    np.testing.assert_array_equal(packed.images_NCHW, plain)


def test_large_jpeg_decoded_at_reduced_scale_is_close_to_the_full_decode():
    data = encoded(size=(800, 1000), format="JPEG")
    with Image.open(io.BytesIO(data)) as image:
        square = image.convert("RGB").crop((0, 100, 800, 900))
    expected = np.asarray(square.resize((32, 32), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.abs(decode_image(data, 32).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_packed_equals_a_plain_loop(folder, tmp_path, workers):
    packed = pack(folder, tmp_path / "cache", workers=workers)
    plain = np.stack([decode_image(p.read_bytes(), SIZE) for p in sorted(folder.iterdir())])
    np.testing.assert_array_equal(packed.images_NCHW, plain)
    assert packed.images_NCHW.dtype == np.uint8 and not packed.images_NCHW.flags.writeable
    np.testing.assert_array_equal(packed.rows["number"], np.arange(COUNT))
    assert packed.notes == {"split": "official", "broken": []}


def test_archive_and_folder_pack_the_same(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    from_folder = pack(folder, tmp_path / "a")
    from_archive = pack(tmp_path / "images.zip", tmp_path / "b", workers=4)
    np.testing.assert_array_equal(from_folder.images_NCHW, from_archive.images_NCHW)
    assert from_folder.pixel_digest == from_archive.pixel_digest


def test_header_names_source_size_count_and_fingerprint(folder, tmp_path):
    packed = pack(folder, tmp_path / "cache")
    header = header_of(tmp_path / "cache")
    wanted = {"source": "here", "identity": "abc", "image_size": SIZE, "count": COUNT}
    assert header.items() >= wanted.items()
    assert header["pixel_digest"] == packed.pixel_digest
    pixels = np.asarray(packed.images_NCHW).tobytes()
    assert (tmp_path / "cache").read_bytes()[HEADER_BYTES:].startswith(pixels)
    assert image_cache.hashlib.sha256(pixels).hexdigest() == packed.pixel_digest


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"x")


def cut_in_the_header(path):
    os.truncate(path, 100)


def empty(path):
    path.write_bytes(b"")


def overwrite_the_header(path):
    path.write_bytes(b"x" * 50 + path.read_bytes()[50:])


def scramble_the_header(path):
    path.write_bytes(MAGIC + b"{" * 500 + path.read_bytes()[len(MAGIC) + 500 :])


def flip_a_byte_of_the_index(path):
    data = bytearray(path.read_bytes())
    data[data.rindex(b'"broken"'.decode().encode("utf-32-le"))] ^= 1
    path.write_bytes(bytes(data))


def older_format(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"format": 1', b'"format": 0', 1))


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    "damage",
    [truncate, lengthen, cut_in_the_header, empty, overwrite_the_header, scramble_the_header,
     flip_a_byte_of_the_index, older_format, remove],
)
def test_a_damaged_cache_is_refused(folder, tmp_path, damage):
    path = tmp_path / "cache"
    pack(folder, path)
    open_images(path, "abc", SIZE)
    damage(path)
    with pytest.raises(ModlibError):
        open_images(path, "abc", SIZE)


def test_another_source_or_size_is_refused(folder, tmp_path):
    pack(folder, tmp_path / "cache")
    with pytest.raises(ModlibError, match="identity 'abc', wanted 'abd'"):
        open_images(tmp_path / "cache", "abd", SIZE)
    with pytest.raises(ModlibError, match="image_size 16, wanted 32"):
        open_images(tmp_path / "cache", "abc", 32)


def test_broken_image_stops_the_run_and_leaves_the_old_cache(folder, tmp_path):
    path = tmp_path / "cache"
    pack(folder, path)
    before = path.read_bytes()
    (folder / "000070.png").write_bytes(b"no image")
    with pytest.raises(ModlibError, match=r"images: cannot decode 000070\.png .*skip_broken=True"):
        pack(folder, path)
    assert path.read_bytes() == before
    assert not leftovers(tmp_path)


def test_skip_broken_leaves_out_the_image_and_its_row(folder, tmp_path):
    bad = [0, 1, 63, 64, 70, 149]
    for n in bad:
        whole = (folder / f"{n:06d}.png").read_bytes()
        (folder / f"{n:06d}.png").write_bytes(whole[: len(whole) // 2])
    packed = pack(folder, tmp_path / "cache", skip_broken=True, workers=3)
    good = np.setdiff1d(np.arange(COUNT), bad)
    plain = [decode_image((folder / f"{n:06d}.png").read_bytes(), SIZE) for n in good]
    np.testing.assert_array_equal(packed.images_NCHW, np.stack(plain))
    np.testing.assert_array_equal(packed.rows["number"], good)
    assert packed.notes["broken"] == [f"{n:06d}.png" for n in bad]


def test_a_whole_chunk_may_be_broken(folder, tmp_path):
    for n in range(64):
        (folder / f"{n:06d}.png").write_bytes(b"")
    assert len(pack(folder, tmp_path / "cache", skip_broken=True).images_NCHW) == COUNT - 64


def test_all_broken_is_an_error(folder, tmp_path):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ModlibError, match="none of the 150 images"):
        pack(folder, tmp_path / "cache", skip_broken=True)
    assert not (tmp_path / "cache").exists() and not leftovers(tmp_path)


def test_interrupted_run_leaves_nothing(folder, tmp_path, monkeypatch):
    def interrupt(data, size, crop):
        raise KeyboardInterrupt

    monkeypatch.setattr(image_cache, "decode_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() and not leftovers(tmp_path)


def test_leftovers_of_dead_runs_are_removed_and_of_living_ones_are_not(folder, tmp_path):
    dead, living = tmp_path / "cache.1.tmp", tmp_path / "cache.2.tmp"
    dead.touch()
    living.touch()
    os.utime(dead, (0, 0))
    pack(folder, tmp_path / "cache")
    assert leftovers(tmp_path) == [living]


def test_processes_packing_at_once_do_not_disturb_each_other(folder, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        digests = list(pool.map(_pack_digest, [folder] * 4, [tmp_path / "cache"] * 4))
    opened = open_images(tmp_path / "cache", "abc", SIZE)
    assert set(digests) == {opened.pixel_digest}
    assert not leftovers(tmp_path)


def _pack_digest(folder, path) -> str:
    return pack(folder, path).pixel_digest


def test_too_little_room_is_said_first(folder, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModlibError, match=r"needs .* GB"):
        pack(folder, tmp_path / "cache")


def test_a_full_disk_is_said(folder, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_images.os, "fsync", full)
    with pytest.raises(ModlibError, match=r"cannot be written: .*No space left"):
        pack(folder, tmp_path / "cache")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_out_of_range(folder, tmp_path, workers):
    with pytest.raises(ModlibError, match=f"workers is {workers}; allowed: 1 or more"):
        pack(folder, tmp_path / "cache", workers=workers)


@pytest.mark.parametrize("size", [15, 1025, 64.0, "64", True, None])
def test_image_size_out_of_range(size):
    with pytest.raises(ModlibError, match="allowed: an integer from 16 to 1024"):
        image_cache.check_image_size(size)


@pytest.mark.parametrize(
    ("progress", "disabled", "shown"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_progress_bar(folder, tmp_path, monkeypatch, capsys, progress, disabled, shown):
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    pack(folder, tmp_path / "cache", progress=progress)
    printed = capsys.readouterr()
    assert printed.out == "" and ("150/150" in printed.err) == shown
