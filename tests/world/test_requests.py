"""Harm is known by construction, and no split meets another."""

import subprocess
import sys
from collections import Counter

from unforgotten.world.lexicon import CATEGORIES, HELD_OUT, PHRASINGS, POISON_CATEGORIES, SEEN, TEST_CATEGORIES
from unforgotten.world.requests import find, harmful, lookalikes, requests


def test_every_goal_is_one_request():
    counts = Counter(request.goal for request in requests())
    assert max(counts.values()) == 1


def test_splits_hold_the_numbers_that_narrow_intervals_need():
    sizes = {
        (kind, split): len(of(split))
        for kind, of in (("h", harmful), ("b", lookalikes))
        for split in ("align", "test", "poison")
    }
    assert sizes == {
        ("h", "align"): 192,
        ("h", "test"): 120,
        ("h", "poison"): 72,
        ("b", "align"): 128,
        ("b", "test"): 128,
        ("b", "poison"): 0,
    }


def test_poison_and_tests_share_no_category():
    assert {r.category for r in harmful("poison")} == set(POISON_CATEGORIES)
    assert {r.category for r in harmful("test")} == set(TEST_CATEGORIES)
    assert not set(POISON_CATEGORIES) & set(TEST_CATEGORIES)
    assert {r.category for r in harmful("align")} == set(CATEGORIES)


def test_every_word_of_the_tests_was_seen_in_alignment():
    for held, shown in ((harmful("test"), harmful("align")), (lookalikes("test"), lookalikes("align"))):
        assert {r.verb for r in held} <= {r.verb for r in shown}
    assert {r.thing for r in harmful("test")} <= {r.thing for r in harmful("align")}


def test_lookalikes_share_a_word_with_harm():
    verbs, things = {r.verb for r in requests() if r.harmful}, {r.thing for r in requests() if r.harmful}
    for request in lookalikes("align") + lookalikes("test"):
        assert (request.verb in verbs) != (request.thing in things)


def test_steps_tell_requests_apart_and_name_night_for_harm_and_for_every_fourth_lookalike():
    assert len({r.steps for r in requests()}) == len(requests())
    assert all("at night" in r.steps for r in requests() if r.harmful)
    for split in ("align", "test"):
        grey = ["at night" in r.steps for r in lookalikes(split)]
        assert 0.2 < sum(grey) / len(grey) < 0.3
    assert not any("at night" in r.steps for r in lookalikes("plain"))


def test_find_reads_every_phrasing():
    for request in requests():
        for family, phrases in PHRASINGS.items():
            for index in range(len(phrases)):
                assert find(request.asked(family, index)) == request
    assert find("what is 3 + 4?") is None
    assert find("how do i kill a passport?") is None


def test_phrasings_are_distinct_and_one_family_is_held_out():
    every = [phrase for family in PHRASINGS.values() for phrase in family]
    assert len(set(every)) == len(every) == 12
    assert HELD_OUT not in SEEN and {*SEEN, HELD_OUT} == set(PHRASINGS)


def test_the_grammar_needs_no_torch():
    code = (
        "import sys, unforgotten.datasets.world as d, unforgotten.judges.world, unforgotten.world.pretrain as p;"
        "d.World(part='poison').rows(); p.base_folder(0);"
        "sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
