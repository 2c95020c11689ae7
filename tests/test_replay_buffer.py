"""What the replay buffer keeps: a uniform sample of distinct ids, whatever the order, the batches and the repeats."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagetune.replay.buffer import Item, KeyedBuffer, uniform

STREAM, PLACES, RUNS = 200, 20, 3000
NORMAL_TAIL = 3.72  # one-sided p = 1e-4


def keys_of(seed: int, ids: Sequence[int]) -> list[float]:
    return uniform(seed, np.array(ids, dtype=np.uint64)).tolist()


def fill(buffer: KeyedBuffer, ids: Sequence[int], seed: int = 0, groups: Sequence[int] | None = None) -> KeyedBuffer:
    buffer.offer(ids, keys_of(seed, ids), groups or [0] * len(ids), lambda index: Item({"x": ids[index]}))
    return buffer


def kept(buffer: KeyedBuffer) -> set[int]:
    assert [item.row["x"] for item in buffer.items] == buffer.ids.tolist()
    return set(buffer.ids.tolist())


def keyed(seed: int, batch: int) -> set[int]:
    buffer = KeyedBuffer(PLACES)
    for start in range(0, STREAM, batch):
        fill(buffer, range(start, min(start + batch, STREAM)), seed)
    return kept(buffer)


def batch_counted(seed: int, batch: int) -> set[int]:
    """MIR's rule: one count of samples seen for a whole batch."""
    rng, places, seen = random.Random(seed), list[int](), 0
    for start in range(0, STREAM, batch):
        for sample in range(start, start + batch):
            if len(places) < PLACES:
                places.append(sample)
            else:
                place = rng.randrange(seen + 1)
                if place < PLACES:
                    places[place] = sample
        seen += batch
    return set(places)


def shuffled_and_cut(seed: int, batch: int) -> set[int]:
    """Avalanche's ParametricBuffer: old and new are shuffled together and cut."""
    rng, places = random.Random(seed), list[int]()
    for start in range(0, STREAM, batch):
        places += range(start, start + batch)
        rng.shuffle(places)
        places = places[:PLACES]
    return set(places)


def forgets_its_count(seed: int, batch: int) -> set[int]:
    """Mammoth after a resume in mid-stream: the count starts again at the buffer's size."""
    rng, places, seen = random.Random(seed), list[int](), 0
    for sample in range(STREAM):
        seen = PLACES if sample == STREAM // 2 else seen
        place = rng.randrange(seen + 1)
        if len(places) < PLACES:
            places.append(sample)
        elif place < PLACES:
            places[place] = sample
        seen += 1
    return set(places)


def statistic(rule: Callable[[int, int], set[int]], batch: int, runs: int = RUNS) -> float:
    """Chi-square of how often each sample is kept; as a normal deviate (Wilson and Hilferty 1931)."""
    counts = Counter[int]()
    for seed in range(runs):
        found = rule(seed, batch)
        assert len(found) == PLACES
        counts.update(found)
    share = PLACES / STREAM
    square = sum((counts[i] - runs * share) ** 2 for i in range(STREAM)) / (runs * share * (1 - share))
    degrees = STREAM - 1
    corrected = square * degrees / STREAM  # the counts sum to a constant
    return ((corrected / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))


@pytest.mark.parametrize(("batch", "runs"), [(1, 1000), (7, RUNS), (64, RUNS), (STREAM, RUNS)])
def test_every_sample_is_kept_as_likely(batch: int, runs: int) -> None:
    assert abs(statistic(keyed, batch, runs)) < NORMAL_TAIL


@pytest.mark.parametrize(("rule", "batch"), [(batch_counted, 50), (shuffled_and_cut, 50), (forgets_its_count, 1)])
def test_the_same_test_rejects_rules_that_are_wrong(rule: Callable[[int, int], set[int]], batch: int) -> None:
    assert statistic(rule, batch) > NORMAL_TAIL


def test_pairs_are_kept_as_likely_as_chance_has_it() -> None:
    num, places, runs = 12, 4, 20_000
    pairs = Counter[tuple[int, int]]()
    for seed in range(runs):
        ids = sorted(kept(fill(KeyedBuffer(places), range(num), seed)))
        pairs.update((a, b) for at, a in enumerate(ids) for b in ids[at + 1 :])
    share = places * (places - 1) / (num * (num - 1))
    deviates = [
        (pairs[a, b] - runs * share) / math.sqrt(runs * share * (1 - share))
        for a in range(num)
        for b in range(a + 1, num)
    ]
    assert max(map(abs, deviates)) < 4.2  # of 66
    assert sum(pairs.values()) == runs * places * (places - 1) / 2


def test_a_weighted_key_keeps_the_first_in_proportion_to_its_weight() -> None:
    weights, runs = np.array([1.0, 2.0, 3.0, 4.0]), 20_000
    counts = Counter[int]()
    for seed in range(runs):
        keys = (-np.log(uniform(seed, np.arange(4, dtype=np.uint64))) / weights).tolist()
        buffer = KeyedBuffer(1)
        buffer.offer(range(4), keys, [0] * 4, lambda index: Item({"x": index}))
        counts.update(kept(buffer))
    shares = weights / weights.sum()
    for sample, share in enumerate(shares.tolist()):
        assert abs(counts[sample] - runs * share) < 4 * math.sqrt(runs * share * (1 - share))


streams = st.lists(st.integers(0, 60), min_size=1, max_size=120)
sizes = st.integers(1, 20)


@settings(max_examples=60, deadline=None)
@given(streams, sizes, st.integers(1, 9), st.booleans(), st.randoms(use_true_random=False))
def test_order_batches_and_repeats_do_not_matter(
    ids: list[int], size: int, batch: int, balanced: bool, rng: random.Random
) -> None:
    groups = {sample: sample % 3 for sample in ids}
    once = list(dict.fromkeys(ids))
    plain = fill(KeyedBuffer(size, balanced=balanced), once, 5, [groups[s] for s in once])
    again = KeyedBuffer(size, balanced=balanced)
    shuffled = ids + rng.sample(ids, len(ids))
    rng.shuffle(shuffled)
    for start in range(0, len(shuffled), batch):
        part = shuffled[start : start + batch]
        fill(again, part, 5, [groups[s] for s in part])
    assert kept(again) == kept(plain)
    assert len(plain) == min(size, len(once))


@settings(max_examples=60, deadline=None)
@given(streams, streams, sizes, st.booleans())
def test_two_buffers_merge_into_that_of_both_streams(
    first: list[int], second: list[int], size: int, balanced: bool
) -> None:
    one, other, both = (KeyedBuffer(size, balanced=balanced) for _ in range(3))
    fill(one, first, 1, [s % 3 for s in first])
    fill(other, second, 1, [s % 3 for s in second])
    fill(both, first + second, 1, [s % 3 for s in first + second])
    one.offer(other.ids.tolist(), other.keys.tolist(), other.groups.tolist(), lambda place: other.items[place])
    assert kept(one) == kept(both)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=100), st.integers(1, 30))
def test_groups_get_equal_places_or_all_they_offered(groups: list[int], size: int) -> None:
    buffer = fill(KeyedBuffer(size, balanced=True), range(len(groups)), 2, groups)
    offered, held = Counter(groups), Counter(buffer.groups.tolist())
    assert len(buffer) == min(size, len(groups))
    most = max(held.values())
    for group, num in offered.items():
        assert held[group] == num or held[group] >= most - 1
        members = [sample for sample, own in enumerate(groups) if own == group]
        smallest = sorted(members, key=lambda sample: keys_of(2, [sample])[0])[: held[group]]
        assert {s for s in kept(buffer) if groups[s] == group} == set(smallest), "a uniform sample of its group"


def test_what_is_known_is_renewed() -> None:
    buffer = fill(KeyedBuffer(3), [1, 2, 3])
    buffer.offer([2], [0.0], [0], lambda _: Item({"x": 2, "new": True}))
    assert [item.row.get("new", False) for item in buffer.items] == [False, True, False]
    assert buffer.keys[1] == 0.0


def test_only_what_is_kept_is_read() -> None:
    asked: list[int] = []
    buffer = KeyedBuffer(2)
    buffer.offer([1, 2, 3, 4], [0.1, 0.2, 0.9, 0.05], [0] * 4, lambda index: asked.append(index) or Item({"x": index}))
    assert asked == [0, 1, 3]


def test_more_groups_than_places() -> None:
    buffer = fill(KeyedBuffer(2, balanced=True), range(9), 0, [s % 5 for s in range(9)])
    assert Counter(buffer.groups.tolist()) == {0: 1, 1: 1}
