"""CLEVR: the four answers by hand, the official layout, and a training on a few scenes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modlib.clevr import QUESTIONS, load_clevr
from modlib.errors import ModlibError
from modlib.reading import run_reader
from modlib.task_readers import ReaderSettings

TASKS = tuple(QUESTIONS)


def thing(shape, x, color="gray", size="small"):
    return {"shape": shape, "color": color, "size": size, "pixel_coords": [x, 100, 9.0]}


def scene(*objects):
    """A scene as CLEVR's files have it; what is right of what goes by x."""
    def beside(sign):
        return [[n for n, other in enumerate(objects)
                 if sign * (other["pixel_coords"][0] - one["pixel_coords"][0]) > 0]
                for one in objects]
    return {"objects": list(objects), "relationships": {"right": beside(1), "left": beside(-1)}}


@pytest.mark.parametrize(("objects", "answers"), [
    ([], (False, False, False, None)),
    ([thing("cylinder", 1), thing("cylinder", 2)], (True, False, False, None)),
    ([thing("cylinder", 1)] * 3, (False, False, False, None)),
    ([thing("sphere", 1), thing("cube", 2)], (False, True, False, False)),
    ([thing("cube", 1), thing("sphere", 2)], (False, False, False, False)),
    ([thing("cube", 1), thing("sphere", 2), thing("cube", 3)], (False, True, False, False)),
    ([thing("sphere", 5, "red", "small"), thing("sphere", 4, "blue", "large")],
     (False, False, True, True)),
    ([thing("cube", 1, "red", "large"), thing("sphere", 3, "blue", "small"),
      thing("sphere", 7, "blue", "large")], (False, False, False, False)),
])
def test_answers_are_those_that_one_sees(objects, answers):
    given = tuple(question(scene(*objects)) for question in QUESTIONS.values())
    assert given == answers


@pytest.fixture
def root(tmp_path):
    """12 scenes to train on and 4 to test on, in the official layout, of 48×32 pixels."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        folder = tmp_path / "CLEVR_v1.0/images" / part
        folder.mkdir(parents=True)
        scenes = []
        for n in range(count):
            name = f"CLEVR_{part}_{n:06d}.png"
            Image.fromarray(rng.integers(0, 256, (32, 48, 4), dtype=np.uint8)).save(folder / name)
            objects = [thing("sphere", 1, ("red", "blue")[n % 2], "large")] if n % 4 else []
            scenes.append(scene(*objects, *[thing("cylinder", 9)] * (n % 3))
                          | {"image_filename": name, "image_index": n, "split": part})
        path = tmp_path / f"CLEVR_v1.0/scenes/CLEVR_{part}_scenes.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"info": {}, "scenes": scenes}))
    load_clevr.cache_clear()
    return tmp_path / "CLEVR_v1.0"


def test_the_official_layout_is_read(root, tmp_path):
    data = load_clevr(root, TASKS, 48, str(tmp_path / "cache"))
    assert data.images_NCHW.shape == (16, 3, 48, 48) and data.classes == 2
    assert [len(data.indices(split)) for split in ("train", "valid", "test")] == [11, 1, 4]
    test = data.labels_NT[data.indices("test")]
    assert test.tolist() == [[0, 0, 0, -1], [0, 0, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1]]
    assert "CLEVR" in data.source and data.places is None


def test_some_questions_of_some_images_are_enough(root, tmp_path):
    for path in sorted((root / "images/train").iterdir())[6:]:
        path.unlink()
    data = load_clevr(root, ("red sphere", "two cylinders"), 48, str(tmp_path / "cache"))
    assert len(data.indices("train")) + len(data.indices("valid")) == 6
    whole = load_clevr(root, TASKS, 48, str(tmp_path / "cache"))
    assert np.array_equal(data.labels_NT, whole.labels_NT[:, [2, 0]])
    assert data.fingerprint != whole.fingerprint


@pytest.mark.parametrize(("what", "said"), [
    ("no scenes", r"scenes/CLEVR_val_scenes\.json is missing"),
    ("no json", r"scenes/CLEVR_train_scenes\.json in .* is no scene file of CLEVR"),
    ("no relations", "is no scene file of CLEVR .KeyError: 'relationships'"),
    ("no images", "no image of CLEVR's scenes is in")])
def test_what_is_missing_or_foreign_is_said(root, tmp_path, what, said):
    scenes = root / "scenes/CLEVR_train_scenes.json"
    if what == "no scenes":
        (root / "scenes/CLEVR_val_scenes.json").unlink()
    elif what == "no json":
        scenes.write_text("<html>")
    elif what == "no relations":
        scenes.write_text(scenes.read_text().replace('"relationships"', '"x"'))
    else:
        (root / "images").rename(root / "pictures")
    with pytest.raises(ModlibError, match=said):
        load_clevr(root, TASKS, 48, str(tmp_path / "cache"))


def test_an_unknown_question_is_refused(root):
    with pytest.raises(ModlibError, match="did you mean 'red sphere'"):
        load_clevr(root, ("red spheres",))


def test_the_top_down_network_is_trained_on_it(root, places):
    settings = ReaderSettings(dataset="clevr", tasks=TASKS[:2], image_size=48, batch_size=4,
                              epochs=1, batches_per_epoch=1, td_channels=2, tasks_together=False)
    record = run_reader(settings, replace(places, data_root=str(root)))
    assert record["results"]["test_accuracy"].keys() == set(TASKS[:2])
    assert "maps" not in record["results"]
