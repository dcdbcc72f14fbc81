"""Differences of pairs against published examples, exact enumeration and, for the bootstrap, simulation."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from statistics import NormalDist

import pytest

from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.paired import (
    Difference,
    Verdicts,
    difference,
    mcnemar,
    mean_difference,
    over_seeds,
    repeated,
    tango,
    variance,
)

Z2 = 1.959963984540054**2


def verdicts(wins: int, losses: int, n: int, both: int = 0) -> tuple[list[bool | None], list[bool | None]]:
    """Two models' verdicts of which so many differ either way."""
    rest = n - wins - losses - both
    return [True] * (wins + both) + [False] * (losses + rest), (
        [False] * wins + [True] * both + [True] * losses + [False] * rest
    )


def tables(n: int) -> Iterator[tuple[int, int]]:
    return ((w, x) for w in range(n + 1) for x in range(n + 1 - w))


def chance(w: int, x: int, n: int, p: float, q: float) -> float:
    """Of w wins and x losses among n pairs."""
    rest, left = n - w - x, 1 - p - q
    ways = math.lgamma(n + 1) - math.lgamma(w + 1) - math.lgamma(x + 1) - math.lgamma(rest + 1)
    return math.exp(ways) * p**w * q**x * max(0.0, left) ** rest


@pytest.mark.parametrize(("n", "wins", "losses", "limit"), [
    (100, 0.05, 0.0, 0.05), (100, 0.10, 0.05, 0.05), (200, 0.02, 0.0, 0.02), (200, 0.05, 0.03, 0.02),
])  # fmt: skip
def test_a_method_at_its_limit_seldom_passes_a_one_sided_bound(
    n: int, wins: float, losses: float, limit: float
) -> None:
    """Exact: how often the upper end of the 90 % interval lies within a limit at which the truth is."""
    likely = [(w, x) for w in range(int(3 * n * wins) + 9) for x in range(int(3 * n * losses) + (9 if losses else 1))]
    passes = sum(chance(w, x, n, wins, losses) for w, x in likely if tango(w, x, n, 0.9)[1] <= 100 * limit)
    assert passes <= 0.05


def test_seeds_that_repeat_each_other_keep_all_of_the_prompts_variance() -> None:
    one = verdicts(3, 1, 20)
    assert repeated([[one], [one], [one]]) == pytest.approx(1) and repeated([[one]]) == 1
    nothing = verdicts(0, 0, 20)
    assert repeated([[nothing], [nothing]]) == 1 and repeated([[one], [verdicts(3, 1, 30)]]) == 1
    unread: tuple[list[bool | None], list[bool | None]] = ([None, *one[0][1:]], one[1])
    assert repeated([[one], [unread]]) == 1
    # By hand: d is 1 on prompt 0 of seed 0 and on prompt 1 of seed 1, of four. Each seed has variance 3/16, the mean
    # (½, ½, 0, 0) has 1/16: a third.
    seeds = [[([i == s for i in range(4)], [False] * 4)] for s in (0, 1)]
    assert repeated(seeds) == pytest.approx(1 / 3)
    # Two suites, weighed by 1/n: the second has nothing in either seed.
    both = [[*suites, ([False] * 8, [False] * 8)] for suites in seeds]
    assert repeated(both) == pytest.approx(1 / 3)


@pytest.mark.parametrize("common", [0.3, 0.8])
def test_a_method_at_its_limit_seldom_passes_over_seeds(common: float) -> None:
    """Simulated: 3 seeds, 128 prompts, 10 % hits of the one and 15 % of the other; two models share most of a seed."""
    draw, limit, trials, passes = random.Random(4), 5.0, 120, 0
    shifts = [NormalDist().inv_cdf(share) for share in (0.15, 0.10)]
    rest = math.sqrt((1 - common) / 2)
    for _ in range(trials):
        prompts = [draw.gauss(0, math.sqrt(common)) for _ in range(128)]
        each = []
        for _ in range(3):
            seed = [prompt + draw.gauss(0, rest) for prompt in prompts]
            one, other = ([p + draw.gauss(0, rest) + shift > 0 for p in seed] for shift in shifts)
            each.append([(one, other)])
        by_seed = [mean_difference(suites, confidence=0.9) for suites in each]
        bound = over_seeds(by_seed, 0.9, repeated(each)).high
        passes += bound is not None and bound <= limit
    assert passes / trials <= 0.06


# ── McNemar ──


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        # Airway hyper-responsiveness and complete response: the examples of Fagerland, Lydersen and Laake (2013; 2017).
        (1, 7, 0.0703125),
        (6, 16, 0.052479),
        # By hand: 2·(1 + 5)/32; 2/32; a tie; one pair; none.
        (4, 1, 0.375),
        (5, 0, 0.0625),
        (2, 2, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_gives_published_values(wins: int, losses: int, p: float) -> None:
    assert mcnemar(wins, losses) == mcnemar(losses, wins) == pytest.approx(p, abs=5e-7)


def test_mcnemar_is_what_all_throws_of_the_coins_give() -> None:
    for m in range(1, 11):
        splits = [abs(2 * sum(throw) - m) for throw in itertools.product((0, 1), repeat=m)]
        for wins in range(m + 1):
            as_far = sum(split >= abs(2 * wins - m) for split in splits)
            assert mcnemar(wins, m - wins) == pytest.approx(as_far / 2**m)


def test_mcnemar_takes_many_pairs_and_no_negative_counts() -> None:
    assert mcnemar(0, 3000) < 1e-300 and mcnemar(1500, 1500) == 1
    with pytest.raises(ValueError, match="-1 wins"):
        mcnemar(-1, 2)


# ── Tango's interval ──


@pytest.mark.parametrize(
    ("wins", "losses", "n", "confidence", "low", "high"),
    [
        (1, 7, 21, 0.95, -51.7, -2.6),  # Bentur 2009, in Fagerland, Lydersen and Laake 2014
        (6, 16, 161, 0.95, -12.40, -0.54),  # Cavo 2012, in the same authors' book of 2017, chapter 8
        (16, 8, 86, 0.95, -2.0, 20.7),  # Agresti and Min 2005
        (3, 1, 14, 0.95, -16.70, 43.27),  # M.-L. Tang, Ling, Ling and Tian 2010
        (0, 1, 44, 0.90, -9.6, 3.7),  # Tango 1998
        (9, 3, 32, 0.95, -2.7, 39.0),  # Tango 1998
        (25, 2, 102, 0.95, 13.9, 32.1),  # Chang and others 2024
    ],
)
def test_tango_gives_published_intervals(
    wins: int, losses: int, n: int, confidence: float, low: float, high: float
) -> None:
    places = 2 if n in (161, 14) else 1
    assert [round(end, places) for end in tango(wins, losses, n, confidence)] == [low, high]
    assert tango(losses, wins, n, confidence) == pytest.approx((-high, -low), abs=0.06)


def test_the_variance_at_a_difference_is_that_of_its_likeliest_shares() -> None:
    for w, x, n, d in [(8, 0, 80, 0.05), (16, 6, 161, 0.02), (3, 9, 40, 0.1), (0, 0, 20, 0.03)]:

        def likelihood(q: float, w: int = w, x: int = x, n: int = n, d: float = d) -> float:
            return sum(k * math.log(p) for k, p in ((w, q + d), (x, q), (n - w - x, 1 - 2 * q - d)) if k)

        q = max((i / 200_000 * (1 - d) / 2 for i in range(1, 200_000)), key=likelihood)
        assert variance(w, x, n, d) == pytest.approx((2 * q + d - d * d) / n, rel=1e-3)


def test_no_pair_that_differs_is_not_certainty() -> None:
    for n in (1, 5, 100):
        end = 100 * Z2 / (n + Z2)
        assert tango(0, 0, n) == pytest.approx((-end, end)) and end == pytest.approx(rates.wilson(0, n)[1])
    assert tango(7, 0, 7)[1] == 100 and tango(0, 7, 7)[0] == -100


def test_tango_is_the_score_test_at_0_and_moves_with_wins_and_losses() -> None:
    for n in (1, 2, 6, 13):
        ends = {table: tango(*table, n) for table in tables(n)}
        for (w, x), (low, high) in ends.items():
            assert -100 <= low <= 100 * (w - x) / n <= high <= 100
            excluded = low > 1e-9 or high < -1e-9
            assert excluded == (w + x > 0 and (w - x) ** 2 / (w + x) > Z2)
            if w + x < n:  # a pair more that differs: what the readings of unread verdicts rest on
                assert ends[w + 1, x][0] >= low - 1e-9 and ends[w + 1, x][1] >= high - 1e-9
                assert ends[w, x + 1][0] <= low + 1e-9 and ends[w, x + 1][1] <= high + 1e-9


@pytest.mark.parametrize("n", [10, 20, 50])  # and 100, once, by the same code: at least 93.3 %
def test_tango_covers_the_truth_by_exact_enumeration(n: int) -> None:
    ends = {table: tango(*table, n) for table in tables(n)}
    shares = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
    seen = []
    for p, q in itertools.combinations_with_replacement(shares, 2):  # the other half is its mirror image
        true, below, above = 100 * (p - q), 0.0, 0.0
        for (w, x), (low, high) in ends.items():
            if low > true + 1e-9:
                below += chance(w, x, n, p, q)
            elif high < true - 1e-9:
                above += chance(w, x, n, p, q)
        assert 1 - below - above >= 0.933 and max(below, above) <= 0.051, (p, q)
        seen.append(1 - below - above)
    assert 0.945 <= sum(seen) / len(seen) <= 0.995


def newcombe(both: int, wins: int, losses: int, neither: int) -> tuple[float, float]:
    """Newcombe 1998 (Stat. Med. 17:2635), method 10: what was not chosen."""
    n = both + wins + losses + neither
    one, other, odd = both + wins, both + losses, both * neither - wins * losses
    whole = one * (n - one) * other * (n - other)
    odd = max(odd - n / 2, 0) if odd > 0 else odd
    phi = odd / math.sqrt(whole) if whole else 0.0
    (l1, u1), (l2, u2) = rates.wilson(one, n), rates.wilson(other, n)
    p1, p2 = 100 * one / n, 100 * other / n
    low = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    return p1 - p2 - low, p1 - p2 + high


def test_newcombes_interval_covers_less_where_few_pairs_differ() -> None:
    assert [round(end, 2) for end in newcombe(20, 12, 2, 16)] == [5.62, 32.92]  # his table II
    assert [round(end, 1) for end in newcombe(1, 1, 7, 12)] == [-50.7, -2.6]  # Fagerland and others 2014
    n, p, q = 20, 0.1, 0.001
    ours = theirs = 0.0
    for w, x in tables(n):
        low, high = tango(w, x, n)
        ours += chance(w, x, n, p, q) * (low <= 9.9 <= high)
        for both in range(n - w - x + 1):
            low, high = newcombe(both, w, x, n - w - x - both)
            split = math.comb(n - w - x, both) / 2 ** (n - w - x)  # hits on half of the other prompts
            theirs += chance(w, x, n, p, q) * split * (low <= 9.9 <= high)
    assert theirs == pytest.approx(0.907, abs=0.001) and ours > 0.95


# ── one suite ──


def test_a_difference_by_hand() -> None:
    actual = difference(*verdicts(16, 6, 161, both=59))
    assert (actual.wins, actual.losses, actual.n, actual.unparsed) == (16, 6, 161, 0)
    assert actual.value == pytest.approx(100 * 10 / 161) and actual.p == pytest.approx(0.052479, abs=5e-7)
    assert (actual.low, actual.high) == tango(16, 6, 161)
    other = difference(*reversed(verdicts(16, 6, 161, both=59)))
    assert (other.value, other.p) == (-(actual.value or 0), actual.p)
    facts = json.loads(json.dumps(actual.json()))
    assert facts["value"] == 6.2112 and facts["p"] == 0.052479 and set(facts) == set(Difference.__slots__)


def test_the_degenerate_ones() -> None:
    assert difference([], []) == Difference(None, None, None, None, 0, 0, 0, 0)
    assert not difference([], []).clear
    alike = difference([True, False] * 50, [True, False] * 50)
    assert (alike.value, alike.p, alike.wins, alike.losses) == (0.0, 1.0, 0, 0)
    assert (alike.low, alike.high) == pytest.approx((-3.6993, 3.6993), abs=1e-4)
    apart = difference([True] * 12, [False] * 12)
    assert apart.value == apart.high == 100 and (apart.low or 0) > 50 and (apart.p or 1) < 0.001
    assert difference([True], [False]).low == 0 or not difference([True], [False]).clear
    with pytest.raises(ValueError, match="2 verdicts against 1"):
        difference([True, False], [True])


def test_a_clear_difference_satisfies_interval_and_test() -> None:
    disputed = []
    for m in range(1, 31):
        for wins in range((m + 1) // 2, m + 1):
            actual = difference(*verdicts(wins, m - wins, 80))
            inside = (actual.low or 0) <= 0
            assert actual.clear == (not inside and (actual.p or 0) < 0.05)
            assert not inside or (actual.p or 0) >= 0.05  # the test is the more cautious one
            if not inside and not actual.clear:
                disputed.append((wins, m - wins))
                assert (actual.p or 0) < 0.13
    assert (5, 0) in disputed and (6, 0) not in disputed
    assert not difference(*verdicts(16, 6, 161)).clear and difference(*verdicts(17, 6, 161)).clear


def test_unread_verdicts_cover_every_reading_of_them() -> None:
    chance = random.Random(4)
    for _ in range(40):
        size = chance.randint(1, 8)
        one, other = ([chance.choice([True, False, False, None]) for _ in range(size)] for _ in range(2))
        actual = difference(one, other)
        gaps = one.count(None) + other.count(None)
        ends = []
        for item in itertools.product((True, False), repeat=gaps):
            filling = iter(item)
            full = [[next(filling) if v is None else v for v in side] for side in (one, other)]
            ends.append(difference(*full))
        assert actual.unparsed == sum(None in pair for pair in zip(one, other, strict=True))
        assert (actual.low or 0) <= min(e.low or 0 for e in ends) + 1e-9
        assert (actual.high or 0) >= max(e.high or 0 for e in ends) - 1e-9
        assert (actual.p or 0) >= max(e.p or 0 for e in ends) - 1e-9
        if actual.value is not None:
            assert (actual.low or 0) <= actual.value <= (actual.high or 0)


def test_the_value_leaves_unread_pairs_out() -> None:
    actual = difference([True, None, False, True], [False, True, None, True])
    assert (actual.value, actual.n, actual.wins, actual.losses, actual.unparsed) == (50.0, 4, 1, 0, 2)
    nothing = difference([None, None], [True, None])
    assert nothing.value is None and nothing.p == 1.0 and not nothing.clear and nothing.unparsed == 2


# ── means over suites ──


def test_the_mean_weighs_suites_equally_and_is_the_same_every_time() -> None:
    suites = [verdicts(60, 20, 500), verdicts(5, 5, 100)]
    actual = mean_difference(suites)
    assert actual.value == pytest.approx(4.0) and (actual.wins, actual.losses, actual.n) == (65, 25, 600)
    # 1.96 standard errors of the mean, to half a point: the bootstrap has nothing else to tell of so many.
    error = 100 * math.sqrt((0.16 - 0.08**2) / 500 + 0.1 / 100) / 2
    assert actual.low == pytest.approx(4 - 1.96 * error, abs=0.5) and actual.high == pytest.approx(
        4 + 1.96 * error, abs=0.5
    )
    assert actual == mean_difference(suites) and actual != mean_difference(suites, seed=1)
    turned = mean_difference([(b, a) for a, b in suites])
    assert turned.value == -(actual.value or 0) and turned.p is None


def test_one_suite_is_no_mean_and_none_is_nothing() -> None:
    one = verdicts(9, 2, 40)
    assert mean_difference([one]) == mean_difference([one, ([], [])]) == difference(*one)
    assert mean_difference([]) == difference([], [])


def test_suites_without_a_win_are_not_certain() -> None:
    actual = mean_difference([verdicts(0, 0, 100)] * 3)
    assert actual.value == 0 and actual.p is None and not actual.clear
    assert actual.high == pytest.approx(100 * Z2 / (100 + Z2) / math.sqrt(3)) and actual.low == -(actual.high or 0)
    some = mean_difference([verdicts(0, 3, 100), verdicts(0, 0, 100), verdicts(0, 4, 100)])
    assert (some.high or 0) >= 0 > (some.value or 0) or some.clear
    assert (some.low or 0) < (some.value or 0) - 1


def test_a_mean_of_unread_verdicts_covers_both_readings() -> None:
    one, other = verdicts(10, 0, 100)
    hidden: Verdicts = [None] * 20 + list(one[20:])
    actual = mean_difference([(hidden, other), (one, other)])
    assert actual.unparsed == 20 and actual.value == pytest.approx((0 + 10) / 2)
    assert (actual.low or 0) < 5 and (actual.high or 0) > (20 + 10) / 2
    assert mean_difference([([None], [True]), (one, other)]).value is None
    # With wins and losses on both sides the bootstrap alone tells, once for each reading: those of the filled in.
    before, after = [True] * 20 + [False] * 80, [False] * 10 + [True] * 30 + [False] * 60
    some = mean_difference([([*before[:-9], *[None] * 9], after), (before, after)])
    ends = [mean_difference([([*before[:-9], *[v] * 9], after), (before, after)]) for v in (False, True)]
    assert (some.low, some.high) == (ends[0].low, ends[1].high) and (ends[1].high or 0) > (ends[0].high or 0) + 1


def test_the_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    chance, missed, trials = random.Random(7), [0, 0], 100
    for _ in range(trials):
        suites = []
        for n, p, q in ((60, 0.1, 0.02), (40, 0.02, 0.02)):
            drawn = chance.choices((0, 1, 2), (p, q, 1 - p - q), k=n)
            suites.append(verdicts(drawn.count(0), drawn.count(1), n))
        actual = mean_difference(suites)
        missed[0] += (actual.low or 0) > 4
        missed[1] += (actual.high or 0) < 4
    assert max(missed) / trials <= 0.05


def test_three_suites_of_500_take_a_blink() -> None:
    suites = [verdicts(40, 60, 500), verdicts(120, 100, 520), verdicts(3, 0, 480)]
    started = time.process_time()
    mean_difference(suites)
    assert time.process_time() - started < 1.5


def test_suites_without_a_loss_are_added_in_squares() -> None:
    # By hand: value ± √(Σ reach²)/2 from Tango's limits of each; the bootstrap's ends lie within.
    parts = [tango(0, 3, 100), tango(2, 0, 50)]
    actual = mean_difference([verdicts(0, 3, 100), verdicts(2, 0, 50)])
    assert actual.value == pytest.approx(0.5)
    assert actual.low == pytest.approx(0.5 - math.hypot(-3 - parts[0][0], 4 - parts[1][0]) / 2)
    assert actual.high == pytest.approx(0.5 + math.hypot(parts[0][1] + 3, parts[1][1] - 4) / 2)


# ── seeds ──


def test_seeds_of_a_difference_are_pooled_and_one_stays_itself() -> None:
    one, two = difference(*verdicts(30, 5, 100)), difference(*verdicts(22, 5, 100))
    assert over_seeds([one]) == one
    actual = over_seeds([one, two])
    assert actual.value == pytest.approx(21) and actual.p is None
    assert (actual.n, actual.wins, actual.losses, actual.unparsed) == (200, 52, 10, 0)
    assert (actual.low or 0) < min(one.low or 0, two.low or 0) and (actual.high or 0) > 21  # two seeds say little
    same = over_seeds([one, one, one])
    assert (same.low, same.high) == pytest.approx((one.low, one.high))
    assert over_seeds([one, difference([None], [None])]).value is None
    assert over_seeds([]).value is None
