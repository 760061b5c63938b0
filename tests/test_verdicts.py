"""Claims are judged seed by seed, from intervals that can be computed by hand, in one direction."""

import re
from html import escape as escaped
from math import inf, isnan

import pytest

from modlib.settings import Settings
from modlib.three_attributes import ROWS, row_settings
from modlib.verdicts import (
    BETTER,
    LITTLE,
    NO_WORSE,
    Verdict,
    as_html,
    over_seeds,
    summary,
    table_of,
    verdict_table,
    verdicts,
)

SMILE, MOUTH, YOUNG = "Smiling", "Mouth_Slightly_Open", "Young"
RELATED, UNRELATED = (SMILE, MOUTH), (SMILE, YOUNG)
NO_ROWS = {name: [] for name in "abcdef"}
HALF_OF_1_2_3 = 2.48414  # t(0.975, 2 degrees of freedom) = 4.30265, times 1 / √3

# Each claim: what is compared (row, and pair for a UCR) as (the paper's better, the worse), and
# the difference that the paper prints, in points.
CLAIMS = {
    "The fully shared network is worse than independent networks": ("d", "a", 13.86),
    "Smile is learnt worse beside young than beside mouth open": ("c", "b", 7.87),
    "The related pair has the higher UCR, without modulation":
        (("c", RELATED), ("b", UNRELATED), 28.53),
    "Even the related pair is learnt worse together than by independent networks":
        ("d", "c", 1.675),
    "Modulation raises the accuracy of the shared network": ("e", "a", 14.8333),
    "Modulated, the three are learnt better than smile / young alone, shared": ("e", "b", 10.835),
    "Modulated, the three are learnt better than smile / mouth open alone, shared":
        ("e", "c", 2.485),
    "Modulation raises the UCR of smile / young": (("e", UNRELATED), ("b", UNRELATED), 21.61),
    "Modulation raises the UCR of smile / mouth open": (("e", RELATED), ("c", RELATED), 2.14),
    "The modulated network passes independent networks": ("e", "d", 0.9733),
    "The regulariser adds a little": ("f", "e", 0.91),
}
SHARED_WORSE, SMILE_WORSE, UCR_RELATED, *_ = CLAIMS


def record(row, seed=0, accuracy=50.0, others=None, ucr=None) -> dict:
    """A hand-made record.

    Args:
        accuracy: of smile, in %; of the other tasks too unless ``others`` says another.
        ucr: ``{pair: (positive, negative, zero)}``; pairs left out were counted never.
    """
    [settings] = row_settings(Settings(), 0.1, [seed])[row]
    others = accuracy if others is None else others
    return {
        "settings": settings.as_dict(),
        "results": {"test_accuracy": {
            task: (accuracy if task == SMILE else others) / 100 for task in settings.tasks}},
        "epochs": [{"ucr": [
            {"tasks": list(pair), "positive": positive, "negative": negative, "zero": zero}
            for pair, (positive, negative, zero) in (ucr or {}).items()]}],
    }


def by_seed(row, values, seeds=(0, 1, 2), **more) -> list[dict]:
    return [record(row, seed, value, **more) for seed, value in zip(seeds, values, strict=True)]


def judge(claim, **rows) -> Verdict:
    """The verdict on one claim, from the given rows alone."""
    [verdict] = [v for v in verdicts(NO_ROWS | rows) if v.claim == claim]
    return verdict


def shared_and_independent(differences, **more) -> Verdict:
    """The first claim, where seeds differ far more from each other than the two rows do."""
    levels = (50, 70, 90)[: len(differences)]
    seeds = range(len(differences))
    raised = [level + difference for level, difference in zip(levels, differences, strict=True)]
    return judge(SHARED_WORSE, a=by_seed("a", levels, seeds), d=by_seed("d", raised, seeds))


# Accuracies: Student's interval, seed by seed

def test_three_seeds_have_students_interval_of_their_mean_difference():
    verdict = shared_and_independent((1, 2, 3))
    assert verdict.difference == pytest.approx(2)
    assert verdict.low == pytest.approx(2 - HALF_OF_1_2_3, abs=1e-5)
    assert verdict.high == pytest.approx(2 + HALF_OF_1_2_3, abs=1e-5)


@pytest.mark.parametrize(("differences", "word"), [
    ((2, 3, 4), "held"), ((1, 2, 3), "not decided"), ((-1, 0, 1), "not decided"),
    ((-1, -2, -3), "not decided"), ((-2, -3, -4), "did not hold"),
    ((0.1, 0.1), "held"), ((1, 3), "not decided"), ((0, 0, 0), "not decided"),
])
def test_the_word_follows_from_where_the_interval_lies(differences, word):
    assert shared_and_independent(differences).word == word


@pytest.mark.parametrize("difference", [20, -20])
def test_one_seed_decides_nothing(difference):
    verdict = shared_and_independent((difference,))
    assert verdict.difference == pytest.approx(difference)
    assert (verdict.low, verdict.high, verdict.word) == (-inf, inf, "not decided")


def test_a_seed_that_one_row_lacks_is_left_out():
    verdict = judge(SHARED_WORSE, a=by_seed("a", (50, 60, 0, 70), (0, 1, 2, 4)),
                    d=by_seed("d", (51, 62, 99, 73), (0, 1, 3, 4)))
    assert verdict.difference == pytest.approx(2)
    assert verdict.low == pytest.approx(2 - HALF_OF_1_2_3, abs=1e-5)


def test_seeds_are_paired_by_number_not_by_place():
    verdict = judge(SHARED_WORSE, a=by_seed("a", (50, 60, 70), (0, 1, 2)),
                    d=by_seed("d", (73, 62, 51), (2, 1, 0)))
    assert verdict.low == pytest.approx(2 - HALF_OF_1_2_3, abs=1e-5)


def test_rows_without_a_seed_in_common_are_not_run_yet():
    verdict = judge(SHARED_WORSE, a=by_seed("a", (50, 60), (0, 1)),
                    d=by_seed("d", (80, 90), (2, 3)))
    assert verdict.word == "not run yet"


def test_the_mean_over_tasks_is_compared():
    verdict = judge(SHARED_WORSE, a=by_seed("a", (50, 50), (0, 1), others=50),
                    d=by_seed("d", (59, 59), (0, 1), others=47))
    assert verdict.difference == pytest.approx((9 - 3 - 3) / 3)


def test_beside_young_and_beside_mouth_open_smile_alone_is_compared():
    verdict = judge(SMILE_WORSE, b=by_seed("b", (60, 60), (0, 1), others=99),
                    c=by_seed("c", (64, 64), (0, 1), others=1))
    assert verdict.difference == pytest.approx(4)
    assert verdict.word == "held"


# Update compliance ratios: Newcombe's interval

def test_two_ratios_have_newcombes_interval():
    """Newcombe (1998), Statistics in Medicine 17, Table II, method 10: 56/70 against 48/80."""
    verdict = judge(UCR_RELATED, c=[record("c", ucr={RELATED: (56, 14, 0)})],
                    b=[record("b", ucr={UNRELATED: (48, 32, 0)})])
    assert verdict.difference == pytest.approx(20)
    assert verdict.low == pytest.approx(5.24, abs=0.005)
    assert verdict.high == pytest.approx(33.39, abs=0.005)
    assert verdict.word == "held"


def test_ratios_count_all_seeds_and_the_batches_of_inner_product_0():
    verdict = judge(
        UCR_RELATED, c=[record("c", seed, ucr={RELATED: (28, 3, 4)}) for seed in (0, 1)],
        b=[record("b", seed, ucr={UNRELATED: (16, 5, 5)}) for seed in (0, 1)]
        + [record("b", 2, ucr={UNRELATED: (16, 12, 0)})])
    assert (verdict.difference, verdict.low, verdict.high) == (
        pytest.approx(20), pytest.approx(5.24, abs=0.005), pytest.approx(33.39, abs=0.005))


@pytest.mark.parametrize(("related", "low", "high", "word"), [
    ((800, 600, 700), 20 - 10 * HALF_OF_1_2_3, 20 + 10 * HALF_OF_1_2_3, "not decided"),
    ((700, 700, 700), 17.56, 22.41, "held"),  # Newcombe's, of 2100 / 3000 against 1500 / 3000
])
def test_ratios_that_differ_by_seed_have_the_wider_interval_over_seeds(related, low, high, word):
    verdict = judge(
        UCR_RELATED,
        c=[record("c", seed, ucr={RELATED: (n, 1000 - n, 0)}) for seed, n in enumerate(related)],
        b=[record("b", seed, ucr={UNRELATED: (500, 500, 0)}) for seed in range(3)])
    assert verdict.difference == pytest.approx(20)
    assert (verdict.low, verdict.high) == (
        pytest.approx(low, abs=0.005), pytest.approx(high, abs=0.005))
    assert verdict.word == word


@pytest.mark.parametrize(("counts", "word"), [
    ((80, 20), "held"), ((55, 45), "not decided"), ((50, 50), "not decided"),
    ((20, 80), "did not hold")])
def test_the_word_on_a_ratio_follows_from_its_interval(counts, word):
    verdict = judge(UCR_RELATED, c=[record("c", ucr={RELATED: (*counts, 0)})],
                    b=[record("b", ucr={UNRELATED: (50, 50, 0)})])
    assert verdict.word == word


def test_a_pair_that_was_never_counted_is_not_run_yet():
    verdict = judge(UCR_RELATED, c=[record("c", ucr={RELATED: (9, 1, 0)})], b=[record("b")])
    assert verdict.word == "not run yet"


# Every claim

def two_sides(claim, better, worse) -> dict:
    """Rows in which one side of a claim is far above the other; all that is not compared lies."""
    high_side, low_side, _ = CLAIMS[claim]
    if isinstance(high_side, str):
        others = {SMILE_WORSE: {"others": 70}}.get(claim, {})
        return {high_side: by_seed(high_side, [better] * 3, **others),
                low_side: by_seed(low_side, [worse] * 3, **others)}
    sides = {}
    for (row, pair), share, accuracy in ((high_side, better, 10), (low_side, worse, 90)):
        other = {RELATED: UNRELATED, UNRELATED: RELATED}[pair]
        counts = {pair: (share, 100 - share, 0), other: (100 - share, share, 0)}
        tasks = set(ROWS[row].tasks)
        counts = {pair: count for pair, count in counts.items() if set(pair) <= tasks}
        sides[row] = [record(row, accuracy=accuracy, ucr=counts)]
    return sides


def test_the_claims_are_the_papers():
    assert [verdict.claim for verdict in verdicts(NO_ROWS)] == list(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_has_the_papers_difference_beside_it(claim):
    assert judge(claim).paper == pytest.approx(CLAIMS[claim][-1], abs=1e-3)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_holds_when_its_better_side_is_better(claim):
    """But a little is no more than a point."""
    verdict = judge(claim, **two_sides(claim, better=90, worse=60))
    word = "did not hold" if "a little" in claim else "held"
    assert (verdict.word, verdict.difference) == (word, pytest.approx(30))


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_does_not_hold_when_its_better_side_is_worse(claim):
    verdict = judge(claim, **two_sides(claim, better=60, worse=90))
    assert (verdict.word, verdict.difference) == ("did not hold", pytest.approx(-30))


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_not_decided_when_both_sides_are_the_same(claim):
    word = "held" if "a little" in claim else "not decided"  # nothing is within a point
    assert judge(claim, **two_sides(claim, better=70, worse=70)).word == word


@pytest.mark.parametrize(("interval", "words"), [
    ((0.5, 0.1, 0.9), ("held", "held", "held")),
    ((5.0, 4.0, 6.0), ("held", "held", "did not hold")),
    ((0.0, -0.9, 0.9), ("not decided", "held", "held")),
    ((-0.5, -0.9, -0.1), ("did not hold", "held", "held")),
    ((-1.5, -1.9, -1.1), ("did not hold", "did not hold", "did not hold"))])
def test_the_word_is_of_what_the_papers_words_ask(interval, words):
    assert tuple(Verdict("", *interval, None, meant).word
                 for meant in (BETTER, NO_WORSE, LITTLE)) == words


def test_a_table_says_that_one_seed_has_no_interval():
    table = table_of([Verdict("a", 1.0, -inf, inf, None)])
    assert table.measured.item() == "+1.0 (one seed)"


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_of_which_one_side_is_missing_is_not_run_yet(claim, missing):
    rows = two_sides(claim, better=90, worse=60)
    del rows[list(rows)[missing]]
    verdict = judge(claim, **rows)
    assert verdict.word == "not run yet"
    assert isnan(verdict.low) and isnan(verdict.high)


@pytest.mark.parametrize("claim", CLAIMS)
def test_rows_that_a_claim_does_not_name_do_not_enter_it(claim):
    sides = two_sides(claim, better=90, worse=60)
    lies = {row: [record(row, seed, 1 + seed, ucr={RELATED: (1, 1, 0), UNRELATED: (1, 1, 0)})
                  for seed in range(3)] for row in ROWS if row not in sides}
    assert judge(claim, **sides, **lies) == judge(claim, **sides)


# Tables and sentences

@pytest.fixture
def mixed() -> dict:
    """Rows by which three claims hold, two do not, four are not decided and two are not run yet."""
    return {
        "a": by_seed("a", (50, 60, 70)), "d": by_seed("d", (60.5, 70, 80.5)),
        "b": by_seed("b", (55, 60, 65), ucr={UNRELATED: (40, 60, 0)}),
        "c": by_seed("c", (56, 60, 64), ucr={RELATED: (80, 20, 0)}),
        "e": by_seed("e", (58, 68.5, 78), ucr={UNRELATED: (10, 90, 0)}), "f": [],
    }


WORDS = ["held", "not decided", "held", "not decided", "held", "not decided", "not decided",
         "did not hold", "not run yet", "did not hold", "not run yet"]


def test_the_table_has_the_papers_difference_the_measured_one_and_the_word(mixed):
    table = verdict_table(mixed)
    assert table.index.tolist() == list(CLAIMS)
    assert table.verdict.tolist() == WORDS
    assert table.paper.tolist() == [
        "+13.9", "+7.9", "+28.5", "+1.7", "+14.8", "+10.8", "+2.5", "+21.6", "+2.1", "+1.0", "+0.9"]
    assert table.loc[SHARED_WORSE, "measured"] == "+10.3 [+9.6, +11.1]"
    assert table.loc[SMILE_WORSE, "measured"] == "+0.0 [−2.5, +2.5]"
    assert [measured == "–" for measured in table.measured] == [
        word == "not run yet" for word in WORDS]


def test_as_html_the_verdict_comes_first_as_the_pages_style_expects(mixed):
    table = verdict_table(mixed)
    shown = as_html(table)
    cells = [escaped(cell) for claim, line in table.iterrows()
             for cell in (claim, line.verdict, line.measured.replace(", ", ",\xa0"), line.paper)]
    assert re.findall(r"<t[hd]>(.*?)</t[hd]>", shown) == [
        "", "verdict", "measured", "paper", *cells]
    assert 'class="dataframe table wide-names claims"' in shown


def test_the_table_without_records_says_so():
    table = verdict_table(NO_ROWS)
    assert table.verdict.tolist() == ["not run yet"] * 11
    assert table.measured.tolist() == ["–"] * 11


def test_the_summary_lists_every_claim_that_was_measured_once_under_its_word(mixed):
    said = summary(mixed)
    head, _, *lines = said.splitlines()
    assert head == "Of the paper's 11 claims about this table:"
    assert [line.split("**")[1] for line in lines] == [
        "3 held", "2 did not hold", "4 not decided", "2 not run yet"]
    for claim, word in zip(CLAIMS, WORDS, strict=True):
        if word == "not run yet":  # counted: the table names them
            assert claim[1:] not in said
            continue
        [line] = [line for line in lines if claim[1:] in line]
        assert line.split("**")[1].endswith(f" {word}")
        assert said.count(claim[1:]) == 1
    assert "worse than independent networks (+10.3 points)" in said
    assert lines[-1] == "- **2 not run yet**."


def test_the_summary_without_records_has_one_line():
    lines = summary(NO_ROWS).splitlines()[2:]
    assert lines == ["- **11 not run yet**."]


def test_over_seeds_is_students_interval_and_of_one_seed_there_is_none():
    verdict = over_seeds("a claim", [1.0, 2.0, 3.0], 0.5)
    assert (verdict.difference, verdict.low, verdict.high) == pytest.approx(
        (2, 2 - HALF_OF_1_2_3, 2 + HALF_OF_1_2_3), abs=1e-4)
    assert (verdict.claim, verdict.paper, verdict.word) == ("a claim", 0.5, "not decided")
    one = over_seeds("a claim", [1.5])
    assert (one.difference, one.low, one.high, one.paper) == (1.5, -inf, inf, None)
    assert over_seeds("a claim", []).word == "not run yet"
