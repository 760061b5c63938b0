"""Settings are checked once and named by what they are."""

import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from sphinx.pycode import ModuleAnalyzer

from modlib.adaptive_branching import BranchingSettings
from modlib.aggregation import WEIGHTINGS
from modlib.classification import ClassifierSettings
from modlib.errors import ModlibError
from modlib.networks import MASK_INITIALISATIONS, SYSTEMS, TRUNK_FROM
from modlib.settings import Places, Settings
from modlib.task_readers import ReaderSettings

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = sorted((ROOT / "book/results/three_attributes").glob("*.json"))

DEFAULTS = {field.name: field.default for field in fields(Settings)}
# For every setting a valid value that is not its default.
OTHER_VALUES = {
    "profile": "mine", "dataset": "celeba", "tasks": ("Smiling", "Young"), "image_size": 48,
    "crop": 0.8, "toy_images": 60, "system": "fully_shared", "initialisation": "kaiming",
    "width": 1.0, "embedding_size": 8,
    "modulate_from": 5, "branch_size": 25, "trunk_system": "modulated",
    "trunk_tasks": ("Bald",), "signed_scales": True, "rank": 2,
    "mask_initialisation": "normal", "bn_decay": 0.5,
    "batching": "triplets", "triplet_choice": "symmetric",
    "batch_size": 90, "batch_images": "any", "samples_per_anchor": 1, "margin": 0.5,
    "hinge_mean": "active",
    "horizontal_flip": False, "shift": 3, "zoom": 0.1, "colour_jitter": 0.5,
    "epochs": 9, "batches_per_epoch": 7, "optimiser": "adagrad", "learning_rate": 0.01,
    "scale_rate_factor": 1.0, "schedule": "cosine", "precision": "float32",
    "compiled": True, "aggregation": "upgrad", "regulariser_weight": 1.0, "regulariser_beta": 2.0,
    "embedding_norm_weight": 5e-3, "mask_norm_weight": 5e-4, "ucr_every": 1, "final_probes": 2,
    "test_triplets": 5, "final_test": False, "seed": 3,
}
NEEDS = {"trunk_system": {"system": "mask_only"}, "trunk_tasks": {"system": "mask_only"},
         "compiled": {"ucr_every": 0}, "crop": {"dataset": "celeba"},
         "embedding_norm_weight": {"system": "csn"}, "mask_norm_weight": {"system": "csn"}}


# Types, ranges, choices

@pytest.mark.parametrize(("name", "value", "allowed"), [
    ("horizontal_flip", "false", "true or false"),
    ("horizontal_flip", 0, "true or false"),
    ("learning_rate", "1e-3", "a number"),
    ("learning_rate", None, "a number"),
    ("learning_rate", True, "a number"),
    ("margin", float("nan"), "a number"),
    ("epochs", 3.5, "a whole number"),
    ("epochs", True, "a whole number"),
    ("epochs", "3", "a whole number"),
    ("epochs", None, "a whole number"),
    ("batches_per_epoch", 2.0, "a whole number"),
    ("profile", 3, "text"),
    ("tasks", ["Smiling", 3], "a list of str"),
    ("tasks", "Smiling", "a list of str"),
])
def test_a_wrong_type_is_refused_with_what_is_allowed(name, value, allowed):
    with pytest.raises(ModlibError, match=f"^{name} must be {allowed}; given") as caught:
        Settings(**{name: value})
    assert repr(value) in str(caught.value)


def test_text_for_a_number_says_how_yaml_writes_it():
    with pytest.raises(ModlibError, match=r"in YAML write 1\.0e-3"):
        Settings(learning_rate="1e-3")


def test_a_whole_number_serves_where_a_number_is_asked_for():
    assert repr(Settings(learning_rate=1).learning_rate) == "1.0"


def test_a_list_of_tasks_becomes_a_tuple():
    assert Settings(tasks=["Smiling", "Young"]).tasks == ("Smiling", "Young")


@pytest.mark.parametrize(("name", "low", "high", "step"), [
    ("image_size", 48, 1024, 1), ("toy_images", 50, 1_000_000, 1), ("width", 0.01, 8.0, 0.001),
    ("modulate_from", 2, 5, 1), ("margin", 0.0, 4.0, 0.001), ("epochs", 1, 100_000, 1),
    ("batches_per_epoch", 1, 10_000_000, 1), ("ucr_every", 0, 1_000_000, 1),
    ("seed", 0, 2**31 - 1, 1), ("scale_rate_factor", 0.0, 1e6, 1.0),
    ("branch_size", 1, 65_536, 1), ("embedding_norm_weight", 0.0, 1e6, 1.0),
    ("mask_norm_weight", 0.0, 1e6, 1.0),
])
def test_a_range_includes_its_ends_and_nothing_beyond(name, low, high, step):
    needs = NEEDS.get(name, {})
    assert getattr(Settings(**{name: low}, **needs), name) == low
    assert getattr(Settings(**{name: high}, **needs), name) == high
    for value in (low - step, high + step):
        with pytest.raises(ModlibError, match=f"^{name} must be from .*; given {value!r}"):
            Settings(**{name: value}, **needs)


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_number_is_refused(value):
    with pytest.raises(ModlibError, match="learning_rate must be from"):
        Settings(learning_rate=value)


@pytest.mark.parametrize(("name", "value", "nearest"), [
    ("system", "modulatd", "modulated"), ("dataset", "CelebA", "celeba"),
    ("dataset", "zapos50k", "zappos"), ("dataset", "folders", "folder"),
    ("batching", "triplet", "triplets"), ("triplet_choice", "holder", "holders"),
    ("optimiser", "Adamm", "adam"), ("precision", "bfloat", "bfloat16"),
    ("schedule", "cosin", "cosine"), ("mask_initialisation", "slice", "slices"),
    ("aggregation", "pcgrd", "pcgrad"), ("aggregation", "means", "mean"), ("system", "CSM", "csn"),
])
def test_an_unknown_choice_is_refused_with_the_nearest_one(name, value, nearest):
    with pytest.raises(ModlibError, match=f"value of {name}: '{value}'.*mean '{nearest}'"):
        Settings(**{name: value})


@pytest.mark.parametrize("tasks", [[], ["Smiling", "Young", "Smiling"]])
def test_tasks_are_one_or_more_and_distinct(tasks):
    with pytest.raises(ModlibError, match="tasks must be one or more distinct names"):
        Settings(tasks=tasks)


def test_a_batch_holds_a_triplet_of_every_task():
    assert Settings(batch_size=9).triplets_per_task == 1
    with pytest.raises(ModlibError, match="batch_size must be at least 3 × 3 tasks = 9; given 8"):
        Settings(batch_size=8)


def test_a_batch_is_shared_out_evenly_over_the_tasks():
    assert Settings(batch_size=180).triplets_per_task == 20
    assert Settings(batch_size=35).triplets_per_task == 3


@pytest.mark.parametrize("changes", [
    {"system": "fully_shared"}, {"system": "independent"}, {"tasks": ["Smiling", "Young"]},
    {"tasks": ["Smiling", "Young", "Bald", "Bangs"]},
])
def test_the_regulariser_asks_for_modulation_and_three_tasks(changes):
    with pytest.raises(ModlibError, match="regulariser_weight above 0 needs"):
        Settings(regulariser_weight=0.1, **changes)
    assert Settings(regulariser_weight=0.0, **changes).regulariser_weight == 0


@pytest.mark.parametrize("name", ["embedding_norm_weight", "mask_norm_weight"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_penalties_of_csn_ask_for_csn(name, system):
    assert not Settings(system=system, **{name: 0.0}).has_csn_penalty
    if system == "csn":
        assert Settings(system=system, **{name: 0.1}).has_csn_penalty
        return
    with pytest.raises(ModlibError, match=(
            f"embedding_norm_weight and mask_norm_weight above 0 need system='csn'; given "
            f"system='{system}'")):
        Settings(system=system, **{name: 0.1})


@pytest.mark.parametrize("aggregation", ["mean", *WEIGHTINGS])
@pytest.mark.parametrize("system", SYSTEMS)
def test_an_aggregation_asks_for_something_shared_to_train(system, aggregation):
    if aggregation == "mean" or system not in ("independent", "mask_only"):
        assert Settings(system=system, aggregation=aggregation).aggregation == aggregation
        return
    with pytest.raises(ModlibError, match=(
            f"aggregation='{aggregation}' needs shared parameters.*system='{system}'.*'mean'")):
        Settings(system=system, aggregation=aggregation)


def test_toy_faces_are_not_cut_out():
    for dataset in ("celeba", "zappos", "folder"):
        assert Settings(dataset=dataset, crop=0.8).crop == 0.8
    with pytest.raises(ModlibError, match=r"^crop below 1 needs dataset='celeba'.*given 0\.8"):
        Settings(crop=0.8)


def test_a_batch_of_any_images_is_a_shared_batch():
    assert Settings(batch_images="any").batch_images == "any"
    with pytest.raises(ModlibError, match=r"^batch_images='any' needs batching='shared'"):
        Settings(batch_images="any", batching="triplets")


@pytest.mark.parametrize("how", MASK_INITIALISATIONS)
def test_masks_start_as_one_of_the_ways_that_networks_know(how):
    assert Settings(system="csn", mask_initialisation=how).mask_initialisation == how


@pytest.mark.parametrize("other", [
    {"ucr_every": 4}, {"ucr_every": 0, "final_probes": 1},
    {"ucr_every": 0, "aggregation": "mgda"},
    {"ucr_every": 0, "system": "csn", "mask_norm_weight": 1e-3}])
def test_compiled_steps_cannot_be_looked_into(other):
    with pytest.raises(ModlibError, match=r"^compiled=True needs ucr_every=0"):
        Settings(compiled=True, **other)


MASKS = Settings(**OTHER_VALUES | {
    "system": "mask_only", "aggregation": "mean", "regulariser_weight": 0.0, "compiled": False,
    "batching": "shared", "embedding_norm_weight": 0.0, "mask_norm_weight": 0.0,
    "trunk_system": "branches", "trunk_tasks": ()})


def test_masks_alone_take_their_trunk_from_branches_with_all_else_of_the_trunk_equal():
    branches = MASKS.trunk_from
    assert branches.system == "branches"
    assert branches.modulate_from == DEFAULTS["modulate_from"]  # one trunk for masks of any block
    assert not branches.signed_scales
    assert replace(branches, system="mask_only", modulate_from=MASKS.modulate_from,
                   signed_scales=MASKS.signed_scales) == MASKS


def test_masks_may_take_the_trunk_of_a_modulated_network_of_other_tasks():
    later = replace(MASKS, trunk_system="modulated", trunk_tasks=("Bald", "Bangs", "Goatee"))
    trunk = later.trunk_from
    assert (trunk.system, trunk.tasks, trunk.trunk_tasks) == ("modulated", later.trunk_tasks, ())
    assert trunk.trunk_from is None
    assert replace(trunk, system="mask_only", tasks=later.tasks, trunk_system="modulated",
                   trunk_tasks=later.trunk_tasks) == later


def test_a_trunk_of_its_own_needs_no_other():
    with pytest.raises(ModlibError, match=r"are of system='mask_only'; given system='modulated'"):
        Settings(trunk_tasks=("Bald",))
    with pytest.raises(ModlibError, match="trunk_tasks must be distinct names"):
        Settings(system="mask_only", trunk_tasks=("Bald", "Bald"))


def test_no_other_system_takes_its_trunk_from_another_run():
    for system in SYSTEMS:
        assert (Settings(system=system).trunk_from is not None) == (system in TRUNK_FROM)
    assert Settings(system="mask_only").trunk_from.trunk_from is None
    assert ClassifierSettings().trunk_from is None


@pytest.mark.parametrize("profile", ["mine/first", "../mine", ""])
def test_a_profile_must_do_as_a_files_name(profile):
    with pytest.raises(ModlibError, match="profile"):
        Settings(profile=profile)


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().seed = 1


def test_a_changed_copy_is_checked_again():
    with pytest.raises(ModlibError, match="seed must be from"):
        replace(Settings(), seed=-1)


@pytest.mark.parametrize(("name", "value"), [
    ("workers", -1), ("workers", 1.5), ("device", 0), ("data_root", 3), ("results_dir", None)])
def test_places_are_checked(name, value):
    with pytest.raises(ModlibError, match=f"^{name} must be"):
        Places(**{name: value})


# Names of settings

def test_a_record_of_settings_gives_the_settings_back():
    for system, off in (("modulated", ("embedding_norm_weight", "mask_norm_weight")),
                        ("csn", ("regulariser_weight",))):
        settings = Settings(**OTHER_VALUES | dict.fromkeys(off, 0.0) | {
            "aggregation": "mean", "system": system, "tasks": ["A", "B", "C"],
            "compiled": False, "batching": "shared", "trunk_system": "branches",
            "trunk_tasks": []})
        assert Settings(**json.loads(json.dumps(settings.as_dict()))) == settings


# Names of runs

def test_every_setting_has_another_value_here():
    assert list(OTHER_VALUES) == list(DEFAULTS)
    assert not [n for n, value in OTHER_VALUES.items() if value == DEFAULTS[n]]


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_run_name_changes_with_every_setting(name):
    def digest(settings):
        return settings.run_name("data").rpartition("-")[2]

    needs = NEEDS.get(name, {})
    assert digest(Settings(**{name: OTHER_VALUES[name]}, **needs)) != digest(Settings(**needs))


def test_run_names_differ_by_value_and_not_only_by_which_setting_changed():
    assert Settings(epochs=9).run_name("data") != Settings(epochs=8).run_name("data")


def test_a_run_name_changes_with_the_data():
    assert Settings().run_name("data") != Settings().run_name("other data")


def test_a_run_name_does_not_depend_on_the_order_of_settings():
    given = {"seed": 3, "epochs": 9, "margin": 0.5, "tasks": ["Smiling", "Young"]}
    assert (Settings(**given).run_name("data")
            == Settings(**dict(reversed(given.items()))).run_name("data"))


def test_a_run_name_does_not_depend_on_how_a_value_is_written():
    assert (Settings(learning_rate=1, tasks=["A", "B"]).run_name("data")
            == Settings(learning_rate=1.0, tasks=("A", "B")).run_name("data"))


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_at_its_default_does_not_enter_the_name(name):
    """So a setting added later leaves the records made before it valid."""
    given = {"epochs": 9, "seed": 2} if name not in ("epochs", "seed") else {"margin": 0.5}
    assert (Settings(**given, **{name: DEFAULTS[name]}).run_name("data")
            == Settings(**given).run_name("data"))


def test_a_run_name_shows_profile_system_tasks_and_seed():
    settings = Settings(profile="mine", system="independent", tasks=["A", "B"], seed=5)
    assert settings.run_name("data").startswith("mine-independent-2tasks-seed5-")


def test_published_run_names_stay_as_they_are():
    """Records are found by names that were given once; the hashes are sha256sum's of
    ``[{}, "0123456789abcdef"]`` and of ``[{"dataset": "celeba", …}, "0123456789abcdef"]``."""
    assert Settings().run_name("0123456789abcdef") == "quick-modulated-3tasks-seed0-93b046871ae9"
    assert Settings(
        profile="celeba_gpu", dataset="celeba", image_size=150, width=1.0, seed=3,
        system="fully_shared", tasks=("Smiling", "Young"), learning_rate=0.01,
    ).run_name("0123456789abcdef") == "celeba_gpu-fully_shared-2tasks-seed3-2e25d12e9a27"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_records_name_follows_from_its_settings_and_data(path):
    """Whatever has been added to the settings since: the run that made it finds it again."""
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert Settings(**record["settings"]).run_name(record["data"]["fingerprint"]) == path.stem


def test_there_are_committed_records_to_name():
    assert COMMITTED


SINCE = {  # settings that committed records lack, with what was done before there was a choice
    "branch_size": 256, "mask_initialisation": "slices", "aggregation": "mean",
    "embedding_norm_weight": 0.0, "mask_norm_weight": 0.0, "hinge_mean": "all",
    "shift": 0, "zoom": 0.0, "colour_jitter": 0.0, "compiled": False,
    "crop": 1.0, "initialisation": "normal", "batch_images": "triplets",
    "signed_scales": False, "rank": 4, "trunk_system": "branches", "trunk_tasks": (),
    "final_probes": 0, "final_test": True}


def test_a_setting_that_committed_records_lack_has_what_was_done_then_as_its_default():
    assert {name: DEFAULTS[name] for name in SINCE} == SINCE
    for path in COMMITTED:
        lacking = DEFAULTS.keys() - json.loads(path.read_text())["settings"].keys()
        assert lacking <= SINCE.keys()


# Their page of functions


@pytest.mark.parametrize("settings", [
    Settings, Places, BranchingSettings, ReaderSettings, ClassifierSettings],
    ids=lambda one: one.__name__)
def test_every_setting_is_described_on_its_page_of_functions(settings):
    """By a ``#:`` comment, which Sphinx reads from the source."""
    described = ModuleAnalyzer.for_module(settings.__module__).find_attr_docs()
    own = {(settings.__name__, field.name) for field in fields(settings)}
    assert own <= described.keys(), own - described.keys()
    # Napoleon takes what stands before a colon for a type.
    assert not [name for name in own if ": " in " ".join(described[name])]
