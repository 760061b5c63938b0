"""The claims and their page: nothing is left out that was not run; words follow the intervals."""

import re
import shutil
from math import inf, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_records import publish, wide_record
from table_1_records import MOUTH, SMILE, YOUNG
from table_1_records import record as table_1_record

from modlib import (
    ablations,
    any_network,
    claims,
    growth,
    later_tasks,
    products,
    replacement,
    three_attributes,
    twenty_attributes,
)
from modlib.arrays import from_json, to_json
from modlib.claims import ONE_PASS, all_claims
from modlib.claims_answers import ONE_BY_ONE, answers
from modlib.claims_page import (
    CALLS,
    calls,
    check,
    claims_table,
    gain_table,
    records_list,
    summary,
)
from modlib.errors import ModlibError
from modlib.growth import gains
from modlib.judged_claims import WORDS, Claim
from modlib.results import write_json, write_record
from modlib.scale_claims import AT_ONE_RATE
from modlib.settings import Settings
from modlib.studies import Study
from modlib.systems import extra_parameter_table
from modlib.tables import points, with_sign

ROOT = Path(__file__).resolve().parents[1]
TWENTY, SEVEN = twenty_attributes.TASKS, ablations.TASKS
COUNTED = "parameters for 20 tasks"
SLIGHTLY = "Modulation is slightly better than a network for each task"
MASKS = "Scales learnt on a frozen trunk do worse"
INTERFERENCE = "With 20 tasks CSN suffers from interference"
FACE_SHAPE, BEARDS = "Against a network each, modulation gains on face shape", "gains on beards"
FORTY = "With 40 attributes modulation is better than branches of 25"
EVERY_PAIR = "Modulation raises the update compliance ratio of every pair of tasks"
MEAN_UCR = "With 7 tasks modulation raises the mean update compliance ratio"
SCALES = "differ more in their scales than related ones (smile, mouth open)"
TIME = "All 20 tasks of an image cost about 15 % more time than one"
CSN_BETTER = "With 7 tasks CSN is better than full sharing"
BLOCK_4 = "Modulating block 4 as well is better than block 5 alone"
BLOCK_3 = "Modulating block 3 as well is better"
SATURATES = "Block 2 as well brings little or nothing: it saturates"
MATRICES = "Matrices bring little or nothing over scales that learn at the same rate"
LEVEL = "With 7 tasks modulation is level with a network each, or better"


@pytest.fixture(scope="module")
def counted():
    """Counted once: twenty networks take seconds to build."""
    return extra_parameter_table(20)


@pytest.fixture
def folder(tmp_path, monkeypatch, counted):
    """A project's root without records; its ``book/results``."""
    (tmp_path / "modlib").mkdir()
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").touch()
    shutil.copy(ROOT / "book/paper_tables.json", tmp_path / "book")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "extra_parameter_table", lambda tasks: counted)
    return tmp_path / "book/results"


def publish_rows(folder: Path, study: Study, accuracy: dict, tasks=TWENTY,
                 profile="celeba_cpu_20", seeds=(0, 1)) -> list[dict]:
    """Records of some rows: by row, the accuracy in % of all tasks, or of each by name."""
    records = []
    for row, value in accuracy.items():
        of_tasks = value if isinstance(value, dict) else dict.fromkeys(tasks, value)
        records += [wide_record(study, row, of_tasks, seed, profile=profile) for seed in seeds]
    for one in records:
        valid = dict.fromkeys(one["settings"]["tasks"], 0.7)
        one["epochs"] = [{"epoch": n + 1, "ucr": [], "valid_accuracy": valid}
                         for n in range(one["settings"]["epochs"])]
        one["run"]["git_commit"] = "0123456789abcdef-dirty"
        if one["settings"]["system"] == "modulated":
            one["results"]["scales"] = {"4": to_json(np.random.default_rng(3).random(
                (len(one["settings"]["tasks"]), 6), np.float32))}
    publish(folder / study.folder, records)
    return records


def claim(text: str) -> Claim:
    """The one whose text ends so, or else the one whose text holds this."""
    every = all_claims()
    [found] = ([one for one in every if one.text.endswith(text)]
               or [one for one in every if text in one.text])
    return found


# Nothing was run


def test_without_records_every_claim_is_there_and_not_run_yet(folder):
    every = all_claims()
    assert len(every) >= 15
    assert {one.word for one in every if COUNTED not in one.text} == {"not run yet"}
    assert {one.measured for one in every if COUNTED not in one.text} == {""}
    assert len({one.text for one in every}) == len(every)


def test_a_pages_check_has_its_own_claims_and_no_links(folder):
    shown = check("03_twenty_attributes")
    for one in all_claims():
        assert (one.text in shown) == (one.page == "03_twenty_attributes")
    assert "href" not in shown


def test_every_claim_that_waits_for_records_has_its_call(folder):
    said = calls(all_claims())
    waiting = {one.folder for one in all_claims() if one.word == "not run yet"}
    assert waiting == set(CALLS) and said.count("\n    make ") == len(CALLS) + 1
    [forty] = [one for one in all_claims() if one.text == FORTY]
    assert calls([forty]).splitlines()[2:] == [
        "    make run NB=03 SETTINGS=celeba_cpu_40 DATA=/path/to/celeba RESULTS=book/results"]
    assert "make run NB=04 SETTINGS=celeba_cpu_7 DATA=/path/to/celeba RESULTS=book/results" in said
    some = [one for one in all_claims() if one.folder in ("", "speed")]
    assert calls(some).splitlines()[2:] == ["    make bench DATA=/path/to/celeba"]
    assert calls([one for one in some if not one.folder]) == ""


def test_parameters_are_judged_without_any_record(folder):
    """Within 5 %. A mask of 256 numbers for each of 20 tasks is 5,120, and not the printed 3k."""
    judged = {one.text.split()[0]: (one.measured, one.paper, one.word) for one in all_claims()
              if COUNTED in one.text}
    assert judged == {
        "Ours": ("10,240 by count", "10k", "held"), "CSN": ("5,120 by count", "3k", "did not hold"),
        "IB-25": ("128,000 by count", "128k", "held"),
        "IB-256": ("1,310,720 by count", "1.3M", "held"),
        "ITN": ("56,150,624 by count", "51M", "did not hold"),
        "Modulation": ("19.9 times fewer by count", "20", "held")}
    assert 20 * (128 + 128 + 256) == 10_240 and 20 * 256 * 256 == 1_310_720


def test_without_records_the_page_can_be_built(folder):
    every = all_claims()
    table = claims_table(every)
    assert len(table) == len(every)
    assert table.notna().all(axis=None) and (table != "").all(axis=None)
    assert set(table[table.verdict == "not run yet"].measured) == {"–"}
    variants = sum(one.variant for one in every)
    claims = len(every) - variants - 6
    assert summary(every) == (
        f"Of {claims} claims: **{claims} not run yet**. "
        "Of 6 printed numbers of parameters: **4 held**, **2 did not hold**. "
        f"{variants} more lines ask one of them again, in other settings or by another count.")
    assert answers() == "Not run yet on 20 attributes."


def test_the_committed_records_can_be_judged(monkeypatch, counted):
    monkeypatch.setattr(claims, "extra_parameter_table", lambda tasks: counted)
    every = all_claims()
    assert {one.word for one in every} <= set(WORDS)
    assert all((one.measured == "") == (one.word == "not run yet") for one in every)


def test_links_lead_to_pages_of_the_book(folder):
    pages = set()
    for one, cell in zip(all_claims(), claims_table(all_claims()).see, strict=True):
        target, shown = re.match(r'<a href="([^"]+)\.html">([^<]+)</a>', cell).groups()
        name = target.split("/")[-1]
        assert shown == (name if name == "systems" else name[:2])
        source = ROOT / "book" / target
        assert source.with_suffix(".ipynb").exists() or source.with_suffix(".md").exists(), one.page
        pages.add(name)
    contents = (ROOT / "_toc.yml").read_text()
    assert all(f"/{name}\n" in contents for name in pages)
    assert len(pages) == 9


def test_every_record_is_listed_and_every_claims_folder_has_its_place(folder):
    records = publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "CSN": 70})
    for one in records:
        write_record(folder / "twenty_attributes" / f"{one['name']}.json", one)
    for name in range(len(records)):
        (folder / "twenty_attributes" / f"{name}.json").unlink()
    listed = records_list()
    for one in records:
        assert f'href="../twenty_attributes/{one["name"]}.json"' in listed
    assert listed.count("<tr>") + listed.count("<tr ") == 1 + len(records)
    for one in all_claims():
        link = f', <a href="#records-{one.folder}">records</a>'
        assert claims_table([one]).see.item().endswith(link) == (
            bool(one.folder) and one.word != "not run yet")
        assert one.folder or COUNTED in one.text


@pytest.mark.parametrize(("change", "said"), [
    (lambda one: one["settings"].update(system="gone"), "its settings are none of this modlib's"),
    (lambda one: one["settings"].update(margin=0.3), "by its settings and data its name is"),
    (lambda one: one["results"]["parameters"].update(total=1), r"results\.parameters\.total is 1"),
    (lambda one: one.update(name="other"), "calls itself other")])
def test_no_record_is_listed_that_is_not_what_it_can_be(folder, change, said):
    [one] = publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90}, seeds=(0,))
    (folder / "twenty_attributes/0.json").unlink()
    path = folder / "twenty_attributes" / f"{one['name']}.json"
    change(one)
    write_record(path, one)
    with pytest.raises(ModlibError, match=said):
        records_list()
    write_json(path, one)
    with pytest.raises(ModlibError, match="has no digest"):
        records_list()


def test_the_committed_records_are_copied_into_the_book():
    assert "html_extra_path: [book/results]" in (ROOT / "_config.yml").read_text()
    listed, folders = records_list(), set()
    for path in (ROOT / "book/results").rglob("*.json"):
        assert f'href="../{path.parent.name}/{path.name}"' in listed
        folders.add(path.parent.name)
    assert {name for name in folders if f'id="records-{name}"' in listed} == folders


# Table 1 and Table 3


def test_table_1_is_judged_by_its_own_verdicts(folder):
    publish(folder / "three_attributes", [
        with_distances(table_1_record(row, seed, mean + 0.1 * seed), 0.1)
        for row, mean in (("a", 60), ("d", 70), ("e", 65)) for seed in (0, 1, 2)])
    worse = claim("The fully shared network is worse than independent networks")
    assert (worse.word, worse.measured, worse.paper) == ("held", "+10.00 [+10.00, +10.00]", "+13.9")
    assert claim("The modulated network passes independent networks").word == "did not hold"
    assert claim("The regulariser adds a little").word == "not run yet"


def test_table_3_is_judged_by_intervals_over_images(folder):
    publish_rows(folder, twenty_attributes.STUDY, {
        "modulated": 90, "independent": 90, "mask only": 50, "CSN": 95, "branches, 25": 50})
    held = claim(MASKS)
    assert (held.word, held.paper, held.page) == ("held", "+6.9", "03_twenty_attributes")
    value, low, high = map(float, re.findall(r"[−+][\d.]+", held.measured))
    assert value == 40 and 0 < low < 40 < high < 60
    assert claim(SLIGHTLY).word == "not decided"
    assert claim(SLIGHTLY).measured.startswith("+0.00 [−")
    assert claim(INTERFERENCE).word == "did not hold"
    assert claim(INTERFERENCE).measured.startswith("−5.00 [−")


def test_one_seed_gives_a_difference_and_decides_nothing(folder):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "mask only": 50}, seeds=(3,))
    assert (claim(MASKS).word, claim(MASKS).measured) == ("not decided", "+40.00 (one seed)")


def test_without_a_common_seed_a_claim_is_not_run_yet(folder):
    records = publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "mask only": 50})
    shutil.rmtree(folder)
    publish(folder / twenty_attributes.STUDY.folder, [records[0], records[3]])
    assert [one["settings"]["seed"] for one in (records[0], records[3])] == [0, 1]
    assert (claim(MASKS).word, claim(MASKS).measured) == ("not run yet", "")


def test_a_claim_about_some_attributes_is_judged_on_them_alone(folder):
    gains = dict.fromkeys(TWENTY, 50) | {"Chubby": 95, "Double_Chin": 85, "Mustache": 10}
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": gains, "independent": 50})
    assert claim(FACE_SHAPE).measured.startswith("+40.00 [+")
    assert claim(FACE_SHAPE).word == "held"
    assert claim(BEARDS).measured.startswith("−13.33 [−")
    paper = twenty_attributes.paper_table()["rows"]
    difference = sum(paper["Ours"][task] - paper["ITN"][task] for task in
                     ("Goatee", "Mustache", "Sideburns")) / 3
    assert claim(BEARDS).paper == f"{difference:+.1f}"


def test_forty_attributes_have_records_of_their_own(folder):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "branches, 25": 50},
                 profile="celeba_cpu_40")
    assert claim(FORTY).word == "held"
    assert claim(MASKS).word == "not run yet"


SEARCHES = "searches with modulation find more of the right faces than with CSN"


@pytest.mark.parametrize(("precision", "word", "measured"), [
    ((30, 20, 25), "held", "+25.00 [+12.58, +37.42]"),
    ((30, -20, 25), "not decided", "+11.67 [−56.74, +80.07]")])
def test_searches_are_compared_seed_by_seed(folder, precision, word, measured):
    """Student's interval: the mean, and t(0.975, 2) = 4.303 deviations of the mean."""
    records = publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "CSN": 90},
                           seeds=(0, 1, 2))
    for number, (one, gain) in enumerate(zip(records, (*precision, 0, 0, 0), strict=True)):
        one["results"]["retrieval"] = {
            "Smiling": {"queries": 9, "mAP": (50 + gain) / 100, "recall@5": (50 - gain) / 100},
            "Bald": {"queries": 0, "mAP": None, "recall@5": None}}
        write_record(folder / twenty_attributes.STUDY.folder / f"{number}.json", one)
    found = claim(f"{SEARCHES}, by mean average precision")
    assert (found.word, found.measured, found.page) == (word, measured, "06_retrieval")
    other = claim(f"{SEARCHES}, by the searches")
    assert other.word == {"held": "did not hold"}.get(word, word)
    assert other.measured[1:6] == measured[1:6] and other.measured[0] != measured[0]


def test_where_the_papers_figure_is_outside_the_interval_the_size_differs(folder):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "mask only": 50, "CSN": 80})
    far, near = claim(MASKS), claim("masks on the embedding (CSN)")
    assert (far.paper, far.size_differs) == ("+6.9", True)  # ours is 40
    assert (near.paper, near.size_differs) == ("+10.3", False)  # ours is 10
    assert list(claims_table([far, near]).verdict) == [
        "held<br><small>size differs</small>", "held"]
    assert summary([far, near]).endswith(
        "In 1, whatever the verdict, the paper's own figure lies outside our interval.")
    assert claim(SLIGHTLY).size_differs is False  # not run yet


# Tables 4 and 5


def publish_ratios(folder, ours: dict, shared: dict, zeros: dict | None = None, seeds=(0,)) -> None:
    """By pair: the positive ones among 100 inner products, and those of 0 in our system."""
    records = []
    for row, counts, given, seed in (
            (row, *of_row, seed) for seed in seeds for row, *of_row in (
                (ablations.OURS, ours, zeros or {}), (ablations.SHARED, shared, {}))):
        one = wide_record(
            ablations.STUDY, row, dict.fromkeys(SEVEN, 80), seed, profile="celeba_cpu_7")
        one["epochs"][0] |= {"ucr_batches": 100, "ucr": [
            {"tasks": pair.split("/"), "positive": positive,
             "negative": 100 - positive - (zero := given.get(pair, 0)), "zero": zero}
            for pair, positive in counts.items()]}
        records.append(one)
    publish(folder / ablations.STUDY.folder, records)


@pytest.mark.parametrize(("ours", "word", "measured"), [
    ([90, 80], "held", (2, 2, 0)), ([90, 52], "not decided", (2, 1, 0)),
    ([90, 65], "not decided", (2, 1, 0)),  # a pair alone would be decided
    ([90, 48], "not decided", (1, 1, 0)), ([90, 35], "not decided", (1, 1, 0)),
    ([90, 10], "did not hold", (1, 1, 1))])
def test_pairs_are_counted_by_newcombes_interval(folder, ours, word, measured):
    pairs = ("Smiling/Bald", "Smiling/Big_Nose")
    publish_ratios(folder, dict(zip(pairs, ours, strict=True)), dict.fromkeys(pairs, 50))
    found = claim(EVERY_PAIR)
    assert (found.word, found.paper) == (word, "21 of 21")
    higher, raised, lowered = measured
    assert found.measured == (f"higher in {higher} of 2 pairs (decided in {raised}), lower in "
                              f"{2 - higher} (decided in {lowered})")


def test_pairs_and_their_mean_are_judged_without_products_of_zero_too(folder, monkeypatch):
    """10 of 100 agree, and all of those that are not 0; without modulation half of 100."""
    monkeypatch.setattr("modlib.compliance.probed", bool)  # the one epoch with counts will do
    pair, left_out = "Smiling/Bald", ", inner products of 0 left out"
    publish_ratios(folder, {pair: 10}, {pair: 50}, zeros={pair: 90}, seeds=(0, 1))
    assert claim(EVERY_PAIR).word == "did not hold" and not claim(EVERY_PAIR).variant
    without = claim(EVERY_PAIR + left_out)
    assert without.variant and without.measured.startswith("higher in 1 of 1 pairs")
    assert claim(MEAN_UCR).measured.startswith("−40.00")
    mean = claim(MEAN_UCR + left_out)
    assert mean.variant and mean.measured.startswith("+50.00")


def test_pairs_that_one_system_was_not_probed_on_are_not_run_yet(folder):
    publish_ratios(folder, {"Smiling/Bald": 90}, {"Smiling/Big_Nose": 10})
    assert claim(EVERY_PAIR).word == "not run yet"


def of_table_5() -> dict[str, tuple[str, str, str]]:
    """By claim: the word, the measured difference without its interval, and the paper's."""
    return {one.text: (one.word, one.measured.split(" ")[0], one.paper)
            for one in all_claims() if "Table 5" in one.section}


def test_table_5_is_judged_in_the_direction_of_the_paper(folder):
    publish_rows(folder, ablations.STUDY, {
        "from block 4": 90, "from block 5": 50, "from block 2": 50, "from block 3": 90,
        ablations.ONE_RATE: 90, "projection": 95, "CSN": 50}, SEVEN, "celeba_cpu_7")
    assert of_table_5() == {
        CSN_BETTER: ("not run yet", "", "+9.8"), BLOCK_4: ("held", "+40.00", "+1.3"),
        BLOCK_3: ("not decided", "+0.00", "+0.2"), SATURATES: ("did not hold", "−40.00", "−0.4"),
        MATRICES: ("did not hold", "+5.00", "+0.0"), LEVEL: ("not run yet", "", "+0.0")}


def test_what_is_nearly_level_is_level_and_little_but_not_better(folder):
    """99 % each, and 98 % with block 2 as well: intervals that reach less than a point."""
    publish_rows(folder, ablations.STUDY, {
        "from block 4": 99, "from block 5": 99, "from block 2": 98, "from block 3": 99,
        ablations.ONE_RATE: 99, "projection": 99, "independent": 99}, SEVEN, "celeba_cpu_7")
    assert of_table_5() == {
        CSN_BETTER: ("not run yet", "", "+9.8"), BLOCK_4: ("not decided", "+0.00", "+1.3"),
        BLOCK_3: ("not decided", "+0.00", "+0.2"), SATURATES: ("not decided", "−1.00", "−0.4"),
        MATRICES: ("held", "+0.00", "+0.0"), LEVEL: ("held", "+0.00", "+0.0")}


@pytest.mark.parametrize(("interval", "better", "level", "little"), [
    ((0.5, 0.1, 0.9), "held", "held", "held"),
    ((5.0, 4.0, 6.0), "held", "held", "did not hold"),
    ((0.9, 0.1, 1.1), "held", "held", "not decided"),
    ((0.0, -0.9, 0.9), "not decided", "held", "held"),
    ((1.0, -0.9, 2.9), "not decided", "held", "not decided"),
    ((0.0, -1.1, 1.1), "not decided", "not decided", "not decided"),
    ((0.0, -1.1, 0.5), "not decided", "not decided", "not decided"),
    ((-0.5, -0.9, -0.1), "did not hold", "held", "held"),
    ((-1.0, -1.5, -0.5), "did not hold", "not decided", "not decided"),
    ((-1.5, -1.9, -1.1), "did not hold", "did not hold", "did not hold"),
    ((3.0, -inf, inf), "not decided", "not decided", "not decided"),
    ((nan, nan, nan), "not run yet", "not run yet", "not run yet")])
def test_the_papers_words_have_a_margin_of_one_point(
        folder, monkeypatch, interval, better, level, little):
    """Better: above 0. Level or better: above −1. Little or nothing: from −1 to 1."""
    monkeypatch.setattr(claims, "difference", lambda *_: interval)
    of_differences = [one for one in all_claims() if one.section.startswith("4.2")
                      and COUNTED not in one.text
                      and not one.text.startswith((EVERY_PAIR, MEAN_UCR))
                      and one.section != "4.2, Figure 4"]
    assert len(of_differences) == 10 + 2 + 1 + 6
    meant = {LEVEL: level, SATURATES: little, MATRICES: little}
    for one in of_differences:
        assert one.word == meant.get(one.text, better), one.text
        assert one.measured == ("" if one.word == "not run yet" else points(*interval))


# Table 6

def test_table_6_is_judged_over_seeds_of_shoes_alone(folder):
    shoes = dict.fromkeys(("class", "closure", "gender", "heel"), 80)
    records = [one for profile, heel in (("zappos_gpu", 90), ("zappos_cpu", 40))
               for one in publish_rows(folder, products.STUDY, {
                   "modulated": shoes | {"heel": heel}, "CSN": shoes}, profile=profile)]
    for one in records:
        one["results"]["test_triplets"]["given"] = True
    publish(folder / products.STUDY.folder, records)
    heels = claim("On shoes, modulated is better than CSN, on heels")
    assert (heels.word, heels.measured, heels.paper, heels.page) == (
        "held", "+10.00 [+10.00, +10.00]", "+2.8", "12_products")
    assert claim("On shoes, CSN is better than independent").word == "not run yet"


# Scales and costs


def with_distances(record: dict, gap: float) -> dict:
    """The scales of young are ``gap`` farther from those of smile than mouth open's are."""
    record["results"]["w_distance"] = [
        {"tasks": list(pair), "mean": mean, "variance": 0.0} for pair, mean in (
            ((SMILE, MOUTH), 0.2), ((SMILE, YOUNG), 0.2 + gap), ((MOUTH, YOUNG), 9.0))]
    return record


def publish_scales(folder, gaps) -> None:
    """Of the modulated network of three attributes; the fully shared one is far from it."""
    publish(folder / "three_attributes", [
        with_distances(table_1_record(row, seed, 80), far + gap)
        for row, far in (("e", 0), ("a", 5)) for seed, gap in enumerate(gaps)])


@pytest.mark.parametrize(("gaps", "word"), [
    ((0.1, 0.11, 0.12), "held"), ((0.0, 0.1, 0.2), "not decided"),
    ((-0.1, -0.11, -0.12), "did not hold")])
def test_unrelated_scales_are_compared_seed_by_seed(folder, gaps, word):
    publish_scales(folder, gaps)
    found = claim(SCALES)
    assert (found.word, found.section, found.paper) == (word, "3.3", "+0.06")
    assert found.measured.startswith(f"{with_sign(sum(gaps) / len(gaps), 3)} [")


def test_one_seed_of_scales_decides_nothing(folder):
    publish_scales(folder, (0.1,))
    assert (claim(SCALES).word, claim(SCALES).measured) == ("not decided", "+0.100 (one seed)")


def test_the_scales_interval_is_students(folder):
    """Of 0.1, 0.2 and 0.3: t(0.975, 2) = 4.303 deviations of 0.1 / √3."""
    publish_scales(folder, (0.1, 0.2, 0.3))
    assert claim(SCALES).measured == "+0.200 [−0.048, +0.448]"


@pytest.mark.parametrize(("ratios", "word", "measured"), [
    ((1.15, 1.1, 1.19), "held", "+15 % [+10, +19] over repeats"),
    ((1.15, 1.1, 1.3), "not decided", "+15 % [+10, +30] over repeats"),
    ((1.4, 1.25, 1.5), "did not hold", "+40 % [+25, +50] over repeats")])
def test_one_pass_is_judged_by_the_benchmarks_repeats(folder, ratios, word, measured):
    value, low, high = ratios
    write_record(folder / "speed/benchmark.json", {
        "version": 1, "curves": [], "run": {}, "rows": [
            {"question": "another", "value": 9, "low": 9, "high": 9},
            {"question": ONE_PASS, "value": value, "low": low, "high": high}]})
    assert (claim(TIME).word, claim(TIME).measured, claim(TIME).paper) == (word, measured, "+15 %")


def test_the_benchmark_asks_the_question_that_the_claim_reads():
    assert f'"{ONE_PASS}"' in (ROOT / "benchmarks/inference.py").read_text("utf8")


# When

def test_the_gain_is_told_for_each_number_of_tasks_that_was_run(folder):
    publish(folder / "three_attributes", [
        with_distances(table_1_record(row, seed, mean), 0.1)
        for row, mean in (("a", 60), ("e", 62)) for seed in (0, 1)])
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60})
    publish_rows(folder, ablations.STUDY, {"from block 4": 80, "fully shared": 70}, SEVEN,
                 "celeba_cpu_7")
    values = {tasks: value for tasks, (value, _, _) in gains().items()}
    assert values == {3: pytest.approx(2), 7: pytest.approx(10), 20: pytest.approx(30),
                      40: pytest.approx(nan, nan_ok=True)}
    shown = gain_table().iloc[:, 0]
    assert shown[3] == "+2.00 [+2.00, +2.00]" and shown[40] == "not run yet"
    assert ("- **When?** The gain over full sharing, in points: +2.00 [+2.00, +2.00] with 3 tasks, "
            "+10.00 [") in answers()


def test_a_growth_has_the_interval_of_both_gains_and_is_of_the_attributes_of_both(
        folder, monkeypatch):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60, "CSN": 80})
    asked = []

    def told(first, second, tasks=None):
        names = [[one["settings"]["system"] for one in rows] for rows in (first, second)]
        asked.append((*names, tasks))
        return (15.0, 11.0, 19.0)

    monkeypatch.setattr(growth, "gains", lambda: {3: (10.0, 7.0, 13.0)})
    monkeypatch.setattr(growth, "difference", told)
    found = claim("the same three attributes among 20")
    # The paper prints 14.8 with three tasks, and less for the same attributes among 20.
    assert (found.word, found.measured) == ("not decided", "+5.00 [+0.00, +10.00]")
    monkeypatch.setattr(growth, "gains", lambda: {3: (1.0, 0.0, 2.0)})  # decided, and yet:
    assert (claim(found.text).word, claim(found.text).measured[:6]) == ("not decided", "+14.00")
    csn = claim("CSN does not scale up")
    assert csn.word == "not decided" and csn.measured.startswith("+0.00 [")
    ours, shared, csn = (["modulated"] * 2, ["fully_shared"] * 2, ["csn"] * 2)
    both = [task for task in SEVEN if task in TWENTY]
    assert len(both) == 5 and asked[:7] == [
        (ours, shared, three_attributes.TASKS), ([], [], both), (ours, shared, both),
        (ours, shared, None), ([], [], TWENTY), ([], [], both), (ours, csn, both)]


# Scales and tasks

def test_scales_are_held_against_how_labels_go_together(folder):
    records = publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90})
    labels_NT = from_json(records[0]["results"]["test_triplets"]["labels"])
    # Scales that are the labels themselves: those of like tasks are near.
    of_labels = {"4": to_json(labels_NT.T.astype(np.float32))}
    for one in records:
        one["results"]["scales"] = of_labels
    publish(folder / "twenty_attributes", records)
    found = claim("they are nearer for tasks whose labels go together")
    assert found.word == "held" and found.measured.startswith("ρ = +0.")
    assert claim("they are nearer for tasks whose updates agree").word == "not run yet"
    assert claim(f"whose labels go together{AT_ONE_RATE}").word == "not run yet"


def test_scales_at_one_rate_are_judged_apart(folder):
    """Among all 20 tasks, seed by seed; and their labels, whatever the faster scales say."""
    records = publish_rows(folder, twenty_attributes.STUDY, {"modulated, one rate": 90})
    for one, gap in zip(records, (0.1, 0.2), strict=True):
        scales_TC = np.ones((20, 2), np.float32)
        scales_TC[TWENTY.index(MOUTH)] += 0.3
        scales_TC[TWENTY.index(YOUNG)] -= 0.3 + gap
        one["results"]["scales"] = {"4": to_json(scales_TC)}
    publish(folder / "twenty_attributes", records)
    found = claim(f"ones (smile, mouth open), among 20 tasks{AT_ONE_RATE}")
    assert found.measured.startswith("+0.150 [") and found.paper == "+0.06"
    assert found.word == "not decided" and found.folder == "twenty_attributes" and found.variant
    assert claim("ones (smile, mouth open), among 20 tasks").word == "not run yet"
    assert claim(SCALES).word == "not run yet"
    assert claim(f"whose labels go together{AT_ONE_RATE}").word != "not run yet"
    assert claim("whose labels go together").word == "not run yet"


# In short


def test_a_variant_is_no_further_claim():
    one = Claim("1", "", "", "", "held", "", "a folder")
    again = Claim("1", "", "", "", "not decided", "", "a folder", size_differs=True, variant=True)
    assert summary([one, again]) == (
        "Of 1 claims: **1 held**. 1 more line asks one of them again, in other settings or by "
        "another count.")


def test_the_summary_counts_the_words_and_leaves_out_those_of_nothing():
    every = [Claim("1", "", "", "", word, "", "a folder") for word in
             ("held", "not decided", "held", "not run yet")]
    said = "Of 4 claims: **2 held**, **1 not decided**, **1 not run yet**."
    assert summary(every) == said
    assert summary([*every, Claim("1", "", "", "", "held", "", "")]) == (
        f"{said} Of 1 printed numbers of parameters: **1 held**.")


def test_the_answers_are_differences_with_their_intervals(folder):
    [one, *_] = publish_rows(folder, twenty_attributes.STUDY, {
        "modulated": 90, "fully shared": 60, "independent": 80, "CSN": 70})
    assert from_json(one["results"]["test_triplets"]["correct"]).mean() == pytest.approx(0.9)
    works, module, when, why, costs, _, last = answers().splitlines()
    interval = r"\[[+−]\d+\.\d\d, [+−]\d+\.\d\d\]"
    assert re.fullmatch(
        r"- \*\*Does it work\?\*\* Yes, against full sharing: mean triplet accuracy on 20 "
        rf"attributes of real faces goes from 60\.0 to 90\.0 %, by \*\*\+30\.00 {interval}\*\* "
        r"points\.", works)
    assert re.fullmatch(
        r"- \*\*Is it this module\?\*\* Other systems give each task something of its own too, and "
        r"reach this share of that gain: CSN 33 %, independent 67 %\. In points, modulated minus "
        r"each: "
        rf"CSN \*\*\+20\.00 {interval}\*\* \(paper: \+10\.3\); "
        rf"independent \*\*\+10\.00 {interval}\*\* \(paper: \+0\.5\)\.", module)
    assert re.match(rf"- \*\*When\?\*\* The gain over full sharing, in points: \+30\.00 {interval} "
                    r"with 20 tasks\. Of the 20 attributes ", when)
    assert why == "- **Why?** Not run yet: no training of 20 tasks was probed."
    assert costs == ("- **At what cost?** 40 numbers for all tasks of our narrow network, 0.0 % of "
                     "the shared ones.")
    assert last == (
        "The records of Table 3's systems are of commit `0123456789-dirty`, 2 seeds; all others "
        "stand at the end of this page.")


def test_systems_with_fewer_seeds_are_told_by_their_number(folder):
    records = publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60})
    (folder / f"twenty_attributes/{len(records) - 1}.json").unlink()
    assert "`0123456789-dirty`, 1 to 2 seeds; all others" in answers()


def test_the_order_against_wide_branches_is_told_at_one_rate_too(folder):
    records = publish_rows(folder, twenty_attributes.STUDY, {
        "modulated": 90, "fully shared": 60, "branches, 256": 80, "modulated, one rate": 75})
    [module] = [line for line in answers().splitlines() if "**Is it this module?**" in line]
    assert "branches of 256 **+10.00 [" in module
    said = "too, {}, modulated minus branches of 256 is **−5.00 ["
    assert said.format("the rest of the settings the same") in module
    for one in records:
        if one["settings"]["scale_rate_factor"] == 1:
            one["settings"]["learning_rate"] *= 2
            one["name"] = Settings(**one["settings"]).run_name("data")
    publish(folder / "twenty_attributes", records)
    assert said.format("the rest chosen again") in answers()


@pytest.mark.parametrize(("accuracy", "told"), [(95, True), (90, False), (80, False)])
def test_what_is_better_is_told_where_the_interval_decides_it(
        folder, monkeypatch, accuracy, told):
    low_rank = "scales and low rank 4"
    publish_rows(folder, twenty_attributes.STUDY, {
        "modulated": 90, "fully shared": 60, low_rank: accuracy})
    assert "something better" not in answers()  # validation chooses the module
    monkeypatch.setattr(replacement, "chosen", lambda rows: low_rank)
    said = "- **Is there something better?** *Scales and low rank 4*, chosen on the validation "
    assert (said in answers()) == told
    if told:
        assert "is **+5.00 [" in answers() and "with 40 numbers for all tasks." in answers()


@pytest.mark.parametrize(("ours", "word"), [(60, "Not decided"), (40, "No")])
def test_the_first_answer_follows_from_the_interval(folder, ours, word):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": ours, "fully shared": 60})
    assert answers().startswith(f"- **Does it work?** {word}, against full sharing")


def test_without_any_other_system_nothing_is_said_of_the_module(folder):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60})
    assert "Is it this module" not in answers()


def test_who_is_ahead_is_told_by_the_sign(folder):
    publish_rows(folder, twenty_attributes.STUDY, {
        "modulated": 80, "fully shared": 60, "CSN": 85})
    assert ("this share of that gain: CSN 125 %. In points, modulated minus each: CSN **−5.00 ["
            in answers())


def test_the_attributes_that_gain_most_and_least_are_named(folder):
    publish_rows(folder, twenty_attributes.STUDY, {
        "modulated": dict.fromkeys(TWENTY, 70) | {"Young": 90, "Bald": 61}, "fully shared": 60})
    assert "Of the 20 attributes Young +30.0 gains most, Bald +1.0 least." in answers()


def test_the_cost_in_time_comes_from_the_benchmark(folder):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60})
    write_record(folder / "speed/benchmark.json", {
        "version": 1, "curves": [], "run": {}, "rows": [
            {"question": ONE_PASS, "value": 1.2, "low": 1, "high": 2},
            {"question": ONE_BY_ONE, "value": 15, "low": 1, "high": 20}]})
    assert ("All 20 tasks of an image take 1.20 times the time of one (1.00 to 2.00 over "
            "repeats), where 20 passes take 18 times.") in answers()


@pytest.mark.parametrize(("low", "high", "word"), [
    (1, 3, "more"), (-3, -1, "less"), (-1, 3, "not decided")])
def test_the_answers_tell_of_classifiers_where_some_were_trained(
        folder, monkeypatch, low, high, word):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60})
    assert "classifiers" not in answers()
    rows = {"modulated": ["a record"], "fully_shared": ["another"]}
    table = pd.DataFrame({"points": [(low + high) / 2], "low": [low], "high": [high]},
                         index=["modulated − fully shared"])
    monkeypatch.setattr(any_network, "published", lambda profile: rows)
    monkeypatch.setattr(any_network, "differences", lambda given: table)
    assert f"points ({word})." in answers().partition("**In classifiers too?**")[2]


@pytest.mark.parametrize("missing", ["modulated", "fully shared"])
def test_the_answers_need_both_systems(folder, missing):
    rows = {"modulated": 90, "fully shared": 60, "CSN": 70}
    del rows[missing]
    publish_rows(folder, twenty_attributes.STUDY, rows)
    assert answers() == "Not run yet on 20 attributes."


def test_the_answers_end_with_what_is_said_of_later_tasks(folder):
    publish_rows(folder, twenty_attributes.STUDY, {"modulated": 90, "fully shared": 60})
    study = later_tasks.STUDY
    publish(folder / study.folder, [
        wide_record(study, row, dict.fromkeys(study.changes(row)["tasks"], value),
                    profile="celeba_cpu_20")
        for row, value in ((later_tasks.ADDED, 80), (later_tasks.TOGETHER, 85))])
    said = later_tasks.takeaway(later_tasks.published("celeba_cpu_20"))
    assert said.startswith("- ")
    assert f"- **Can a task come later?** {said[2:]}" in answers()
    assert "network for each task" not in answers()
