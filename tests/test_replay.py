"""OnlineContinualLearner: what is replayed, how much of it, and that nothing of it is lost."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.libs.sias import OnlineContinualLearner
from sagetune.replay.learner import Mixed


def batch_of(*ids: int, task: int = 0, width: int = 6) -> dict[str, torch.Tensor]:
    """Rows whose tokens tell their id."""
    rows = torch.tensor([[sample + 10] * width for sample in ids]).reshape(len(ids), width)
    numbers = {"sample_index": torch.tensor(ids, dtype=torch.int64), "task_id": torch.full((len(ids),), task)}
    return {"input_ids": rows, "labels": rows.clone(), "attention_mask": torch.ones_like(rows), **numbers}


def filled(num: int, **given: Any) -> OnlineContinualLearner:
    learner = OnlineContinualLearner(**({"buffer_size": num, "replay_ratio": 0.5} | given))
    learner.update_buffer(batch_of(*range(num)))
    return learner


def replayed(mixed: dict[str, Any], rows: int) -> list[int]:
    return mixed["sample_index"][rows:].tolist()


def test_the_reference_example() -> None:
    learner = OnlineContinualLearner(buffer_size=2048, replay_ratio=0.25)
    seen: set[int] = set()
    for start in range(0, 80, 8):
        batch = batch_of(*range(start, start + 8))
        mixed = learner.mix_with_replay(batch)
        assert len(mixed["input_ids"]) == (8 if start == 0 else 10)
        assert set(replayed(mixed, 8)) <= seen
        assert learner.update_buffer(batch) is None
        seen |= set(range(start, start + 8))
    samples = learner.get_replay_samples(5)
    assert isinstance(samples, list)
    assert [sample["input_ids"].tolist() for sample in samples] == [[int(s["sample_index"]) + 10] * 6 for s in samples]
    assert learner.clear_buffer() is None
    assert learner.get_replay_samples(5) == []


def test_an_empty_buffer_and_a_ratio_of_zero_leave_the_batch_as_it_is() -> None:
    batch = batch_of(1, 2)
    for learner in (OnlineContinualLearner(), filled(10, replay_ratio=0.0)):
        mixed = learner.mix_with_replay(batch)
        assert mixed.keys() == batch.keys()
        assert all(mixed[name] is batch[name] for name in batch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 20))
def test_the_fraction_of_a_row_is_carried_over(sizes: list[int], percent: int) -> None:
    learner = filled(50, replay_ratio=percent / 20)
    mixed = [learner.mix_with_replay(batch_of(*range(100, 100 + size))) for size in sizes]
    extra = [len(found["input_ids"]) - size for found, size in zip(mixed, sizes, strict=True)]
    for steps in range(1, len(sizes) + 1):
        assert sum(extra[:steps]) == math.floor(Fraction(percent, 20) * sum(sizes[:steps]))


def test_a_sample_is_never_twice_in_a_batch() -> None:
    learner = filled(12, replay_ratio=1.0)
    for step in range(40):
        ids = [(step + place) % 12 for place in range(8)]
        mixed = learner.mix(batch_of(*ids), exclude=[(step + 9) % 12])
        found = mixed.batch["sample_index"].tolist()
        assert found[:8] == ids
        assert len(set(found)) == len(found) == 11  # of four others one is excluded
        assert (step + 9) % 12 not in found


def test_without_an_id_the_content_tells_samples_apart() -> None:
    def anonymous(*ids: int) -> dict[str, torch.Tensor]:
        return {name: column for name, column in batch_of(*ids).items() if name != "sample_index"}

    learner = OnlineContinualLearner(buffer_size=10, replay_ratio=1.0)
    for _ in range(3):
        learner.update_buffer(anonymous(1, 2, 3))
    assert len(learner) == 3
    mixed = learner.mix_with_replay(anonymous(1, 2))
    assert mixed["input_ids"][:, 0].tolist() == [11, 12, 13]
    named = OnlineContinualLearner(buffer_size=10)
    named.update_buffer({"sample_id": ["a", "b", "a"], "text": ["x", "y", "z"]})
    assert len(named) == 2


def test_every_sample_is_drawn_as_likely() -> None:
    learner, counts = filled(20, replay_ratio=0.5), Counter[int]()
    rounds = 3000
    for _ in range(rounds):
        counts.update(replayed(learner.mix_with_replay(batch_of(100, 101, 102, 103)), 4))
    square = sum((counts[sample] - 2 * rounds / 20) ** 2 for sample in range(20)) / (2 * rounds / 20 * (1 - 2 / 20))
    assert square * 19 / 20 < 50.8  # chi-square of 19 degrees, p = 1e-4


def test_drawing_in_turn_gives_tasks_equal_parts() -> None:
    learner = OnlineContinualLearner(100, 1.0, draw="task_balanced")
    for task, ids in enumerate((range(60), range(60, 66), range(70, 72))):
        learner.update_buffer(batch_of(*ids, task=task))
    mixed = learner.mix_with_replay(batch_of(*range(200, 206)))
    assert Counter(mixed["task_id"][6:].tolist()) == {0: 2, 1: 2, 2: 2}
    counts = Counter[int]()
    for _ in range(600):
        counts.update(replayed(learner.mix_with_replay(batch_of(*range(200, 206))), 6))
    assert min(counts[sample] for sample in range(60)) > 5, "uniform within a task"
    firsts = Counter(int(learner.get_replay_samples(1)[0]["task_id"]) for _ in range(900))
    assert min(firsts.values()) > 240, "also where fewer rows are due than there are tasks"


def test_replacing_keeps_the_number_of_rows() -> None:
    learner = filled(20, replay_ratio=0.25, mode="replace")
    dropped = Counter[int]()
    for _ in range(200):
        mixed = learner.mix(batch_of(*range(100, 108)))
        assert len(mixed.batch["input_ids"]) == 8
        ids = mixed.batch["sample_index"].tolist()
        assert ids[:6] == [100 + row for row in mixed.current] == sorted(ids[:6])
        assert max(ids[6:]) < 20
        dropped.update(set(range(8)) - set(mixed.current))
    assert min(dropped[row] for row in range(8)) > 20, "no place in the batch is spared"


def test_fifo_keeps_the_latest_as_they_were_last_seen() -> None:
    learner = OnlineContinualLearner(4, selection_strategy="fifo")
    learner.update_buffer(batch_of(*range(6)))
    assert sorted(learner.ids) == [2, 3, 4, 5]
    learner.update_buffer(batch_of(2, 7))
    assert sorted(learner.ids) == [2, 4, 5, 7]


def test_task_balanced_keeps_equal_parts() -> None:
    learner = OnlineContinualLearner(30, selection_strategy="task_balanced")
    for task, num in enumerate((100, 50, 4)):
        learner.update_buffer(batch_of(*range(1000 * task, 1000 * task + num), task=task))
    assert Counter(learner.groups) == {0: 13, 1: 13, 2: 4}
    with pytest.raises(ValueError, match="needs batch\\['task_id'\\]"):
        learner.update_buffer({"x": torch.ones(2)})


def test_loss_keeps_surprising_samples_more_often() -> None:
    kept = Counter[int]()
    for seed in range(400):
        learner = OnlineContinualLearner(5, selection_strategy="loss", seed=seed)
        learner.update_buffer(batch_of(*range(20)), losses=[4.0] * 10 + [1.0] * 10)
        kept.update(learner.ids)
    high, low = (sum(kept[sample] for sample in part) for part in (range(10), range(10, 20)))
    assert 2.5 < high / low < 4.5
    learner.update_buffer(batch_of(*learner.ids), losses=[1e-9] * 5)  # learnt since: others take their places
    learner.update_buffer(batch_of(*range(30, 35)), losses=[1.0] * 5)
    assert sorted(learner.ids) == list(range(30, 35))
    with pytest.raises(ValueError, match="give losses"):
        learner.update_buffer(batch_of(1))
    for losses in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="one finite number for each of 2 rows"):
            learner.update_buffer(batch_of(1, 2), losses=losses)


def test_coreset_chooses_when_a_task_ends() -> None:
    learner = OnlineContinualLearner(6, 1.0, selection_strategy="coreset", candidates=10)
    clusters = torch.arange(24).reshape(3, 8)  # of each task three kinds of eight samples

    def task(number: int) -> dict[str, torch.Tensor]:
        kinds = torch.arange(3).repeat_interleave(8)
        rows = torch.stack([100 * number + 10 * kinds + word for word in range(5)] + [1000 + clusters.flatten()], 1)
        ids = {"sample_index": 100 * number + clusters.flatten(), "task_id": torch.full((24,), number)}
        return {"input_ids": rows, "labels": rows.clone(), **ids}

    learner.update_buffer(task(0))
    assert len(learner) == 0, "nothing is kept of a task that goes on"
    learner.end_task()
    assert len(learner) == 6
    learner.update_buffer(task(1))
    learner.end_task()
    assert Counter(learner.groups) == {0: 3, 1: 3}
    assert sorted(sample // 8 for sample in (identity % 100 for identity in learner.ids)) == [0, 0, 1, 1, 2, 2]


def test_ids_may_be_negative_or_strings() -> None:
    learner = OnlineContinualLearner(10, 1.0)
    learner.update_buffer({"sample_index": torch.tensor([-1, -2]), "x": torch.tensor([1.0, 2.0])})
    assert sorted(learner.ids) == [-2, -1]
    mixed = learner.mix({"sample_index": torch.tensor([7, 8]), "x": torch.zeros(2)}, exclude=[-2])
    assert mixed.batch["sample_index"].tolist() == [7, 8, -1]
    named = OnlineContinualLearner(10, 1.0)
    named.update_buffer({"sample_id": ["a", "b"]})
    assert named.mix({"sample_id": ["c", "d"]}, exclude=["a"]).batch["sample_id"] == ["c", "d", "b"]
    with pytest.raises(ValueError, match="must hold whole numbers"):
        named.update_buffer({"sample_id": ["e"], "task_id": ["shop"]})


def test_kept_objects_are_nobody_elses() -> None:
    learner = OnlineContinualLearner(10, 1.0)
    batch = {"sample_id": ["a"], "messages": [[{"content": "hi"}]]}
    learner.update_buffer(batch)
    batch["messages"][0][0]["content"] = "changed"  # type: ignore[index]
    learner.get_replay_samples(1)[0]["messages"].append("changed")
    assert learner.get_replay_samples(1)[0]["messages"] == [{"content": "hi"}]


@pytest.mark.parametrize("given", [{"mode": "replace"}, {"draw": "mir", "candidates": 2}])
def test_the_padding_side_is_the_batch_s(given: dict[str, Any]) -> None:
    ids = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]])
    learner = OnlineContinualLearner(10, 0.5, **given)
    learner.update_buffer({"input_ids": torch.tensor([[7], [8], [9]]), "sample_index": torch.tensor([7, 8, 9])})
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "sample_index": torch.tensor([0, 1])}
    sides: list[torch.Tensor] = []

    def rank(candidates: dict[str, Any]) -> torch.Tensor:
        sides.append(candidates["attention_mask"])
        return torch.zeros(len(candidates["attention_mask"]))

    for _ in range(8):
        sides.append(learner.mix(batch, interference=rank).batch["attention_mask"])
    assert len(sides) >= 8
    assert all(bool(mask[:, -1].all()) for mask in sides)


def test_a_renewed_sample_keeps_its_place() -> None:
    learner = filled(3)
    learner.renew(batch_of(1, 7) | {"input_ids": torch.full((2, 6), 99)})
    assert sorted(learner.ids) == [0, 1, 2]
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        learner.get_replay_samples(-1)
    texts = {int(s["sample_index"]): s["input_ids"].tolist() for s in learner.get_replay_samples(3)}
    assert texts[1] == [99] * 6
    assert texts[0] == [10] * 6


@pytest.mark.parametrize("strategy", ["reservoir", "task_balanced", "fifo", "loss", "coreset"])
def test_a_restored_learner_goes_on_as_the_first(strategy: str, tmp_path: Path) -> None:
    def step(learner: OnlineContinualLearner, number: int) -> Mixed:
        batch = batch_of(*range(5 * number, 5 * number + 5), task=number // 6, width=3 + number % 4)
        mixed = learner.mix(batch)
        learner.update(batch, losses=[1.0 + place for place in range(5)])
        if number % 6 == 5:
            learner.end_task()
        return mixed

    first, second = (OnlineContinualLearner(9, 0.3, strategy, seed=3) for _ in range(2))
    for number in range(15):
        step(first, number)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for number in range(15, 30):
        one, other = step(first, number), step(second, number)
        assert one.batch.keys() == other.batch.keys()
        assert all(torch.equal(one.batch[name], other.batch[name]) for name in one.batch)
    assert first.ids == second.ids
    assert first.num_bytes == second.num_bytes
    with pytest.raises(ValueError, match="buffer_size must be at least 9, got 4"):
        OnlineContinualLearner(4, 0.3, strategy).load_state_dict(first.state_dict())


@pytest.mark.parametrize("columns", [("labels", [0, 1]), ("labels", ["x", "y"]), ("tools", [[], [{"name": "f"}]])])
@pytest.mark.parametrize("turned", [False, True])
def test_lists_of_any_values_are_restored(columns: tuple[str, list[Any]], turned: bool, tmp_path: Path) -> None:
    name, values = columns
    learner, again = OnlineContinualLearner(5), OnlineContinualLearner(5)
    for place in (1, 0) if turned else (0, 1):
        learner.update_buffer({"sample_id": [str(place)], name: [values[place]]})
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    found = {sample["sample_id"]: sample[name] for sample in again.get_replay_samples(5)}
    assert found == {"0": values[0], "1": values[1]}


def test_what_is_not_a_tensor_is_restored_too(tmp_path: Path) -> None:
    learner = OnlineContinualLearner(5)
    learner.update_buffer({"sample_id": ["a", "b"], "messages": [[{"role": "user"}], []], "input_ids": [[1, 2], [3]]})
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    again = OnlineContinualLearner(5)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.get_replay_samples(1)[0].keys() == {"sample_id", "messages", "input_ids", "attention_mask"}
    rows = again.mix_with_replay({"sample_id": list("cdef"), "messages": [[]] * 4, "input_ids": [[9]] * 4})
    assert (rows["sample_id"][4], rows["messages"][4], rows["input_ids"][4]) in [
        ("a", [{"role": "user"}], [1, 2]), ("b", [], [3])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buffer_size": 0}, "buffer_size must be at least 1, got 0"),
        ({"replay_ratio": 1.5}, r"replay_ratio must be in \[0, 1\], got 1.5"),
        (
            {"selection_strategy": "newest"},
            "selection_strategy must be one of reservoir, task_balanced, fifo, loss, coreset",
        ),
        ({"draw": "best"}, "draw must be one of uniform, task_balanced, mir, got 'best'"),
        ({"mode": "prepend"}, "mode must be one of append, replace"),
        ({"padding_side": "both"}, "padding_side must be one of left, right"),
    ],
)
def test_a_value_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineContinualLearner(**given)


RANKS = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[4])
from test_replay import batch_of
from sagetune.replay import OnlineContinualLearner
rank, folder, strategy = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
learner = OnlineContinualLearner(8, 0.5, strategy, draw="task_balanced" if strategy == "task_balanced" else "uniform")
replayed = []
for step in range(10):
    batch = batch_of(*(8 * step + 4 * rank + place for place in range(4)), task=step // 5)
    replayed.append(learner.mix_with_replay(batch)["sample_index"][4:].tolist())
    learner.update_buffer(batch, losses=[1.0, 2.0, 3.0, 4.0])
torch.save({"state": learner.state_dict(), "ids": learner.ids, "replayed": replayed}, f"{folder}/rank{rank}.pt")
"""


THOROUGH = [pytest.param(name, marks=pytest.mark.thorough) for name in ("task_balanced", "fifo", "loss")]


@pytest.mark.parametrize("strategy", ["reservoir", *THOROUGH])
def test_two_ranks_hold_what_one_process_would(strategy: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANKS]
    places = [str(tmp_path), strategy, str(Path(__file__).parent)]
    ranks = [subprocess.Popen([*command, str(rank), *places]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    alone = OnlineContinualLearner(8, 0.5, strategy)
    for step in range(10):
        alone.update_buffer(batch_of(*range(8 * step, 8 * step + 8), task=step // 5), losses=[1.0, 2.0, 3.0, 4.0] * 2)
    assert found[0]["ids"] == found[1]["ids"] == alone.ids
    for one, other in zip(found[0]["replayed"], found[1]["replayed"], strict=True):
        assert not set(one) & set(other), "the ranks replay different samples"
