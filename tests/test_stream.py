"""A stream of tasks: its order, its steps, and the figures that tell what was forgotten."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagetune.chat import Encoded
from sagetune.evaluation import continual
from sagetune.stream import Pass, StreamLoader, micro_batches, plan_passes


def samples(num: int) -> list[Encoded]:
    return [Encoded(f"s{i}", "", [1] * (1 + i % 7), [1] * (1 + i % 7), None, 0) for i in range(num)]


def loader(sizes: list[int], per_step: int, epochs: int, accumulate: int, max_steps: int | None = None) -> StreamLoader:
    starts = [sum(sizes[:task]) for task in range(len(sizes))]
    tasks = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    passes = plan_passes(sizes, per_step, epochs, max_steps)
    return StreamLoader(samples(sum(sizes)), tasks, passes, accumulate=accumulate, pad_token_id=0, seed=1)


def indices(stream: StreamLoader) -> list[list[int]]:
    return [batch["sample_index"].tolist() for batch in stream]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(8, 30), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 4))
def test_tasks_come_one_after_the_other_and_whole(sizes: list[int], epochs: int, accumulate: int) -> None:
    stream = loader(sizes, 8, epochs, accumulate)
    batches = indices(stream)
    assert len(batches) == len(stream) == accumulate * sum(stream.task_steps)
    served = [index for batch in batches for index in batch]
    ends = [0]
    for task, size in enumerate(sizes):
        ends.append(ends[-1] + epochs * size)
        own = range(sum(sizes[:task]), sum(sizes[: task + 1]))
        assert Counter(served[ends[-2] : ends[-1]]) == Counter({index: epochs for index in own})


@pytest.mark.parametrize("sizes", [[8, 19, 11], [24]])
def test_micro_batches_do_not_change_the_steps(sizes: list[int]) -> None:
    steps = []
    for accumulate in (1, 2, 4):
        batches = indices(loader(sizes, 4, 2, accumulate))
        groups = [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]
        steps.append([sorted(index for batch in group for index in batch) for group in groups])
    assert steps[0] == steps[1] == steps[2]
    assert max(map(len, steps[0])) <= 7


def test_every_pass_has_its_own_order() -> None:
    batches = indices(loader([40], 40, 3, 1))
    assert len({tuple(sorted(batch)) for batch in batches}) == 1
    stream = loader([40], 4, 3, 1)
    orders = [tuple(map(tuple, part)) for part in zip(*[iter(indices(stream))] * 10, strict=True)]
    assert len(set(orders)) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 39))
def test_it_resumes_at_any_batch(position: int) -> None:
    whole = indices(loader([12, 20, 8], 4, 2, 2))
    first, second = loader([12, 20, 8], 4, 2, 2), loader([12, 20, 8], 4, 2, 2)
    started = iter(first)
    head = [next(started)["sample_index"].tolist() for _ in range(position)]
    second.load_state_dict(first.state_dict())
    assert head + indices(second) == whole


def test_what_comes_before_a_pass_is_called_once_and_may_choose() -> None:
    stream, seen = loader([8, 8], 4, 2, 1), list[int]()

    def before(number: int) -> None:
        seen.append(number)
        if number == 2:
            stream.choose(1, [8, 9, 10, 11])

    stream.before_pass = before
    batches = indices(stream)
    assert seen == [0, 1, 2, 3]
    assert Counter(index for batch in batches[4:] for index in batch) == dict.fromkeys(range(8, 12), 2)
    assert stream.pass_of_last_batch == 3


def test_a_budget_of_steps_is_shared_by_the_tasks() -> None:
    passes = plan_passes([40, 20, 20], 4, 2, 10)
    assert passes == [Pass(0, 0, 10, 5), Pass(1, 0, 5, 3), Pass(2, 0, 5, 2)]
    assert loader([40, 20, 20], 4, 2, 2, 10).num_epochs == pytest.approx((5 / 10 + 3 / 5 + 2 / 5) / 3)
    assert len(loader([40, 20, 20], 4, 2, 2, 10)) == 20
    assert plan_passes([8, 8], 4, 1, 99) == [Pass(0, 0, 2, 2), Pass(1, 0, 2, 2)]
    with pytest.raises(ValueError, match=r"budget\.max_steps=2 leaves a task of the stream without a step"):
        plan_passes([40, 20, 20], 4, 2, 2)


def test_the_open_step_is_known_while_it_trains() -> None:
    stream = loader([9, 12], 6, 1, 3)
    opened = [(batch["sample_index"].tolist(), list(stream.open_step)) for batch in stream]
    for start in range(0, len(opened), 3):
        whole = [index for micro, _ in opened[start : start + 3] for index in micro]
        assert [step for _, step in opened[start : start + 3]] == [whole] * 3


def test_a_small_task_has_fewer_micro_batches() -> None:
    passes = plan_passes([40, 3, 20], 8, 1, None)
    assert micro_batches([40, 3, 20], passes, 2) == 3
    assert micro_batches([40, 30, 20], plan_passes([40, 30, 20], 8, 1, None), 2) == 5, "20 samples in two steps of 10"
    for rows in (1, 2, 4):
        stream = loader([40, 30, 20], 8, 1, micro_batches([40, 30, 20], plan_passes([40, 30, 20], 8, 1, None), rows))
        assert max(map(len, indices(stream))) <= max(rows, 2)


def test_a_task_must_fill_its_micro_batches() -> None:
    with pytest.raises(ValueError, match="task 2 of the stream has 3 samples, too few for 1 steps of 4 micro-batches"):
        loader([8, 3], 4, 1, 4)


R = [
    [0.1, 0.2, 0.0],
    [0.9, 0.3, 0.1],
    [0.95, 0.8, 0.2],
    [0.5, 0.7, 0.6],
]


def test_the_figures_of_a_score_matrix() -> None:
    """By hand: task 1 improves to 0.95 before it falls to 0.5, so forgetting is more than minus backward transfer."""
    assert continual.figures(R) == pytest.approx(
        {
            "average": (0.5 + 0.7 + 0.6) / 3,
            "backward_transfer": ((0.5 - 0.9) + (0.7 - 0.8)) / 2,
            "backward_transfer_over_all": ((0.5 - 0.9) + (0.7 - 0.8)) / 3,
            "forgetting": ((0.95 - 0.5) + (0.8 - 0.7)) / 2,
            "forward_transfer": ((0.3 - 0.2) + (0.2 - 0.0)) / 2,
            "learning_accuracy": (0.9 + 0.8 + 0.6) / 3,
            "anytime_average": (0.9 + (0.95 + 0.8) / 2 + (0.5 + 0.7 + 0.6) / 3) / 3,
        }
    )


def test_one_task_forgets_nothing_and_says_so() -> None:
    found = continual.figures([[0.1], [0.6]])
    assert found["average"] == found["learning_accuracy"] == 0.6
    names = ("backward_transfer", "backward_transfer_over_all", "forgetting", "forward_transfer")
    assert [found[name] for name in names] == [None] * 4
