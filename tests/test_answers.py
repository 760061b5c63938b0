"""Systems compared answer by answer, against plain loops and simulated tests."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from modlib.answers import answer_difference, kept_answers, read_answers
from modlib.errors import ModlibError

RNG = np.random.default_rng(0)
TASKS = ("LU", "RL", "LL")


def record(right_TN, seed=0, asked_TN=None, parts_NM=None, tasks=TASKS, data="d") -> dict:
    return {"name": f"r{seed}", "settings": {"seed": seed, "tasks": list(tasks)},
            "data": {"fingerprint": data},
            "results": {"test_answers": kept_answers(right_TN, asked_TN, parts_NM)}}


def drawn(share, images=60):
    return RNG.random((3, images)) < share


def pairwise_variance(values_N, parts_NM) -> float:
    """The sum of the products of all pairs of images that have a part in common, by loops."""
    return sum(values_N[i] * values_N[j] for i, j in product(range(len(values_N)), repeat=2)
               if set(parts_NM[i]) & set(parts_NM[j]))


def test_what_is_kept_is_read_again():
    right, asked, parts = drawn(0.5), drawn(0.8), RNG.integers(0, 900, (60, 2))
    found = read_answers(record(right, asked_TN=asked, parts_NM=parts))
    assert np.array_equal(found[0], right) and np.array_equal(found[1], asked)
    numbers = {}
    for old, new in zip(parts.ravel().tolist(), found[2].ravel().tolist(), strict=True):
        assert numbers.setdefault(old, new) == new
    assert len(set(numbers.values())) == len(numbers)


def test_what_goes_without_saying_is_not_kept():
    one = record(drawn(0.5), asked_TN=np.ones((3, 60), bool))
    assert one["results"]["test_answers"].keys() == {"right"}
    assert read_answers(one)[1].all()
    assert read_answers(one)[2].tolist() == [[n] for n in range(60)]


@pytest.mark.parametrize("all_asked", [True, False])
@pytest.mark.parametrize("parts", [None, 2, 3])
def test_the_difference_and_its_interval_equal_plain_loops(all_asked, parts):
    asked = np.ones((3, 60), bool) if all_asked else drawn(0.6)
    # A part in several images, but no two in the same two: the estimate is exact then.
    parts_NM = np.arange(60)[:, None] if parts is None else np.stack(
        [np.arange(60) // 5, 100 + np.arange(60) % 5 + 5 * (np.arange(60) // 25),
         1000 + np.arange(60)][:parts], axis=1)
    sides = [[record(drawn(share), seed, asked, None if parts is None else parts_NM)
              for seed in range(3)] for share in (0.8, 0.6)]
    by_seed, of_images = [], np.zeros(60)
    for seed in range(3):
        first, second = (read_answers(side[seed])[0] for side in sides)
        by_seed.append(np.mean([(100 * first[t][asked[t]].mean() - 100 * second[t][asked[t]].mean())
                                for t in range(3)]))
    for t in range(3):
        d = 100 * np.mean([read_answers(a)[0][t].astype(float) - read_answers(b)[0][t]
                           for a, b in zip(*sides, strict=True)], axis=0)
        mean = d[asked[t]].mean()
        for n in np.flatnonzero(asked[t]):
            of_images[n] += (d[n] - mean) / (3 * asked[t].sum())
    variance = pairwise_variance(of_images, parts_NM)
    variance = max(variance, np.square(of_images).sum())
    half = np.sqrt(1.959964**2 * variance
                   + stats.t.ppf(0.975, 2)**2 * np.var(by_seed, ddof=1) / 3)
    value = np.mean(by_seed)
    assert answer_difference(*sides) == pytest.approx((value, value - half, value + half), rel=1e-6)


def test_digits_that_many_images_share_widen_the_interval():
    """Ten images of each digit, all right or all wrong together."""
    together = np.repeat(RNG.random((3, 60)) < 0.7, 10, axis=1)
    others = np.zeros_like(together)
    parts = np.repeat(np.arange(60), 10)[:, None]
    halves = {}
    for name, parts_NM in (("own", None), ("shared", parts)):
        sides = [[record(right, seed, None, parts_NM) for seed in (0, 1)]
                 for right in (together, others)]
        value, low, high = answer_difference(*sides)
        assert value == pytest.approx(100 * together.mean())
        halves[name] = high - low
    assert halves["shared"] == pytest.approx(halves["own"] * np.sqrt(10), rel=1e-6)


def test_intervals_of_a_rule_without_skill_hold_zero_as_often_as_they_say():
    """Two rules that guess, on images of digits that make both of them right or wrong together."""
    rng, missed, trials = np.random.default_rng(5), 0, 300
    for _ in range(trials):
        digits = rng.integers(0, 100, (400, 2))
        ease = rng.normal(size=(2, 100))  # of each digit, to each of the two rules
        sides = [[record(ease[rule][digits].sum(1) + rng.normal(size=(3, 400)) > 0, seed, None,
                         digits) for seed in range(6)] for rule in range(2)]
        _, low, high = answer_difference(*sides)
        missed += not low <= 0 <= high
    assert missed <= 0.09 * trials


def test_one_common_seed_has_no_interval_and_none_no_value():
    one, other = [record(drawn(0.9), 0)], [record(drawn(0.1), 0), record(drawn(0.1), 1)]
    value, low, high = answer_difference(one, other)
    assert value > 50 and (low, high) == (-np.inf, np.inf)
    assert np.isnan(answer_difference(one, other[1:])).all()
    assert np.isnan(answer_difference([], other)).all()


@pytest.mark.parametrize("changed", [
    {"tasks": ("LU", "RL", "RU")}, {"asked_TN": drawn(0.5)},
    {"parts_NM": RNG.integers(0, 9, (60, 2))}, {"data": "e"}])
def test_records_of_other_tests_are_not_compared(changed):
    with pytest.raises(ModlibError, match=r"r0 \(LU, RL, LL on data d\) and r0 .* cannot be comp"):
        answer_difference([record(drawn(0.5))], [record(drawn(0.5), **changed)])


def test_a_record_without_answers_is_named():
    one = record(drawn(0.5))
    one["results"].clear()
    with pytest.raises(ModlibError, match="record r0 is of a version that did not keep test_answ"):
        answer_difference([one], [one])
