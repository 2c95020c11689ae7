"""Batches: every sample once an epoch, the same steps however they are cut, an order that (seed, epoch) decides."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from sagetune.batching import Batch, BatchLoader, collate, epoch_steps
from sagetune.chat import IGNORE_INDEX, Encoded


def samples_of(lengths: list[int]) -> list[Encoded]:
    return [Encoded(str(i), "", [7] * n, [IGNORE_INDEX] + [7] * (n - 1), None, 0) for i, n in enumerate(lengths)]


def loader(lengths: list[int], *, batch_size: int = 2, accumulate: int = 1, **kwargs: int) -> BatchLoader:
    given = {"pad_token_id": 0, "seed": 0} | kwargs
    return BatchLoader(samples_of(lengths), batch_size=batch_size, accumulate=accumulate, **given)


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch["sample_index"].tolist() for batch in batches]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    per_step=st.integers(1, 9),
    bucket=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_every_sample_is_in_exactly_one_step(lengths: list[int], per_step: int, bucket: int, epoch: int) -> None:
    steps = epoch_steps(lengths, per_step, bucket, seed=3, epoch=epoch)
    assert sorted(itertools.chain(*steps)) == list(range(len(lengths)))
    assert all(len(step) == per_step for step in steps[:-1])


@given(
    num=st.integers(2, 40),
    batch_size=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    world=st.integers(1, 2),
)
def test_ranks_share_an_epoch_without_loss_and_with_equal_counts(
    num: int, batch_size: int, accumulate: int, world: int
) -> None:
    loaders = [
        loader(list(range(1, num + 1)), batch_size=batch_size, accumulate=accumulate, rank=rank, world_size=world)
        for rank in range(world)
    ]
    batches = [indices(list(one)) for one in loaders]
    assert sorted(itertools.chain(*itertools.chain(*batches))) == list(range(num))
    assert len({len(one) for one in batches}) == 1
    assert [len(one) for one in batches] == [len(one) for one in loaders]


def test_a_step_has_the_same_samples_however_it_is_cut() -> None:
    lengths = list(range(1, 33))
    one = indices(list(loader(lengths, batch_size=8, accumulate=1)))
    eight = indices(list(loader(lengths, batch_size=1, accumulate=8)))
    steps = [sorted(itertools.chain(*eight[i : i + 8])) for i in range(0, 32, 8)]
    assert [sorted(step) for step in one] == steps


def test_two_ranks_together_train_on_the_steps_of_one() -> None:
    lengths = list(range(1, 33))
    alone = indices(list(loader(lengths, batch_size=8)))
    ranks = [indices(list(loader(lengths, batch_size=4, rank=rank, world_size=2))) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(step) for step in alone]


def test_epochs_differ_and_seeds_differ_and_both_repeat() -> None:
    lengths = [5] * 20

    def orders(seed: int) -> list[list[list[int]]]:
        one = loader(lengths, seed=seed)
        return [indices(list(one)) for _ in range(2)]

    assert orders(0) == orders(0)
    assert orders(0)[0] != orders(0)[1]
    assert orders(0)[0] != orders(1)[0]


def test_wide_buckets_waste_less_padding() -> None:
    lengths = torch.randint(1, 500, (400,), generator=torch.Generator().manual_seed(0)).tolist()

    def slots(bucket_steps: int) -> int:
        return sum(batch["input_ids"].numel() for batch in loader(lengths, batch_size=8, bucket_steps=bucket_steps))

    assert slots(10) < 1.15 * sum(lengths) < slots(1)


@given(stop=st.integers(0, 20))
def test_a_restored_loader_goes_on_where_the_first_stopped(stop: int) -> None:
    def three_epochs(one: BatchLoader) -> list[list[int]]:
        return list(itertools.chain(*(indices(list(one)) for _ in range(3))))

    whole = three_epochs(loader(list(range(1, 14))))
    first = loader(list(range(1, 14)))
    seen: list[list[int]] = []
    while len(seen) < stop:
        seen += indices(list(itertools.islice(first, stop - len(seen))))
    second = loader(list(range(1, 14)))
    second.load_state_dict(first.state_dict())
    assert (seen + three_epochs(second))[: len(whole)] == whole


def test_collate_pads_on_the_right_and_weighs_only_where_a_row_asks() -> None:
    rows = samples_of([3, 1])
    batch = collate(rows, [0, 1], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[7, 7, 7], [7, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 7, 7], [-100, -100, -100]]
    assert "loss_weights" not in batch
    weighted = Encoded("w", "", [7, 7], [IGNORE_INDEX, 7], [0.0, 0.5], 0)
    batch = collate([rows[0], weighted], [0, 1], pad_token_id=9)
    assert batch["loss_weights"].tolist() == [[0.0, 1.0, 1.0], [0.0, 0.5, 0.0]]
