"""A sample that is taken out of one batch and put into another is the same sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagetune.chat import IGNORE_INDEX
from sagetune.replay.rows import PADDING, Columns, plain, tensors

PAD = 3  # also a token of the texts: padding must be told by the mask, not by the token
COLUMNS = Columns(PADDING | {"input_ids": PAD})


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[dict[str, list[Any]]], dict[str, Any]]:
    """Ragged samples, and the padded batch of them."""
    left, weighted, foreign = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    samples = []
    for _ in range(draw(st.integers(1, 5))):
        ids = draw(st.lists(st.integers(0, 9), min_size=1, max_size=7))
        mask = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        shown = [token + 100 if foreign else token for token in ids]
        labels = [token if one else IGNORE_INDEX for token, one in zip(shown, mask, strict=True)]
        weights = [float(one) * draw(st.sampled_from([1.0, 0.5])) for one in mask]
        samples.append({"input_ids": ids, "labels": labels, "loss_weights": weights})
    width = max(len(sample["input_ids"]) for sample in samples) + draw(st.integers(0, 2))

    def padded(name: str, value: float) -> torch.Tensor:
        gaps = [[value] * (width - len(sample[name])) for sample in samples]
        return torch.tensor([gap + s[name] if left else s[name] + gap for s, gap in zip(samples, gaps, strict=True)])

    batch: dict[str, Any] = {"input_ids": padded("input_ids", PAD), "labels": padded("labels", IGNORE_INDEX)}
    lengths = [len(sample["input_ids"]) for sample in samples]
    order = [[0] * (width - n) + [1] * n if left else [1] * n + [0] * (width - n) for n in lengths]
    batch["attention_mask"] = torch.tensor(order)
    if weighted:
        batch["loss_weights"] = padded("loss_weights", 0.0)
    batch["sample_index"] = torch.arange(len(samples))
    return samples, batch


@settings(max_examples=150, deadline=None)
@given(batches())
def test_taking_a_row_gives_the_sample(case: tuple[list[dict[str, list[Any]]], dict[str, Any]]) -> None:
    samples, batch = case
    reader = COLUMNS.reader(batch)
    for place, sample in enumerate(samples):
        row = tensors(reader(place))
        assert row["input_ids"].tolist() == sample["input_ids"]
        assert row["labels"].tolist() == sample["labels"]
        assert row["attention_mask"].tolist() == [1] * len(sample["input_ids"])
        assert row["sample_index"] == place


@settings(max_examples=150, deadline=None)
@given(batches(), batches())
def test_strip_of_mix_of_pad_is_the_sample(
    first: tuple[list[dict[str, list[Any]]], dict[str, Any]], second: tuple[list[dict[str, list[Any]]], dict[str, Any]]
) -> None:
    (old, old_batch), (new, new_batch) = first, second
    rows = [COLUMNS.reader(old_batch)(place) for place in range(len(old))]
    mixed = COLUMNS.join(new_batch, rows)
    assert mixed["attention_mask"].sum() == sum(len(sample["input_ids"]) for sample in new + old)
    assert (mixed["labels"][mixed["attention_mask"] == 0] == IGNORE_INDEX).all()
    assert (mixed["input_ids"][mixed["attention_mask"] == 0] == PAD).all()
    for name, column in mixed.items():
        assert column.dtype == (new_batch | old_batch)[name].dtype
    reader = COLUMNS.reader(mixed)
    for place, sample in enumerate(new + old):
        row = {name: plain(reader(place), name) for name in ("input_ids", "labels")}
        assert row == {name: sample[name] for name in row}
    if "loss_weights" in mixed:
        whole = mixed["loss_weights"].sum(1).tolist()
        for place, (sample, batch) in enumerate([(s, new_batch) for s in new] + [(s, old_batch) for s in old]):
            plainly = float(sum(label != IGNORE_INDEX for label in sample["labels"]))
            assert whole[place] == (sum(sample["loss_weights"]) if "loss_weights" in batch else plainly)


@settings(max_examples=50, deadline=None)
@given(batches(), batches())
def test_a_batch_keeps_its_rows_and_its_side(
    first: tuple[list[dict[str, list[Any]]], dict[str, Any]], second: tuple[list[dict[str, list[Any]]], dict[str, Any]]
) -> None:
    (_, old_batch), (new, batch) = first, second
    mixed = COLUMNS.join(batch, [COLUMNS.reader(old_batch)(0)])
    left = bool((batch["attention_mask"][:, 0] == 0).any())
    width, wider = batch["input_ids"].shape[1], mixed["input_ids"].shape[1]
    own = slice(wider - width, None) if left else slice(width)
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(mixed[name][: len(new), own], batch[name])


def test_a_token_takes_five_bytes() -> None:
    ids = torch.randint(0, 49_152, (1, 512))
    row = COLUMNS.reader({"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})(0)
    assert sum(value.nbytes for value in row.values()) == 5 * 512


def test_rows_share_no_memory_with_the_batch() -> None:
    ids = torch.tensor([[1, 2]])
    batch = {"input_ids": ids, "labels": ids.clone(), "extra": torch.tensor([[1.0, 2.0]])}
    row = Columns(PADDING | {"extra": 0.0}).reader(batch)(0)
    for column in batch.values():
        column.zero_()
    assert [row["input_ids"].tolist(), row["labels"].tolist(), row["extra"].tolist()] == [
        [1, 2],
        [True, True],
        [1.0, 2.0],
    ]


def test_lists_stay_lists() -> None:
    batch = {"input_ids": [[1, 2, 3], [4]], "text": ["a", "b"], "share": [0.5, 1.0], "sample_id": ["x", "y"]}
    rows = [COLUMNS.reader(batch)(1)]
    assert rows[0]["input_ids"].dtype == np.int32
    mixed = COLUMNS.join(batch, rows)
    assert mixed == {
        "input_ids": [[1, 2, 3], [4], [4]],
        "text": ["a", "b", "b"],
        "share": [0.5, 1.0, 1.0],
        "sample_id": ["x", "y", "y"],
    }


def test_a_hole_in_the_mask_is_no_token() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[1, 0, 1]])}
    assert COLUMNS.reader(batch)(0)["input_ids"].tolist() == [1, 3]


def test_declared_shapes() -> None:
    columns = Columns(PADDING | {"pixels": None, "scores": -1.0})
    batch = {"pixels": torch.ones(2, 3, 4), "scores": torch.ones(2, 5)}
    mixed = columns.join(batch, [columns.reader({"pixels": torch.zeros(1, 3, 4), "scores": torch.ones(1, 2)})(0)])
    assert mixed["pixels"].shape == (3, 3, 4)
    assert mixed["scores"][2].tolist() == [1, 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "at least one column"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, "one number of rows, got {'a': 2, 'b': 3}"),
        ({"a": torch.ones(2, 3)}, r"batch\['a'\] has shape \(2, 3\) and no declared padding"),
        ({"labels": torch.ones(2, 3, 4)}, r"batch\['labels'\] has shape \(2, 3, 4\)"),
        ({"a": torch.ones(2, dtype=torch.bfloat16)}, "bfloat16"),
        ({"a": torch.tensor(1)}, r"batch\['a'\] has none"),
        ({"labels": torch.ones(2, 3), "input_ids": torch.ones(2, 4)}, "one width, got {.*'labels': 3.*}"),
    ],
)
def test_a_batch_that_cannot_be_kept_is_refused(batch: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        COLUMNS.check(batch)


def test_a_mask_without_tokens_is_kept() -> None:
    columns = Columns(PADDING | {"tokens": 0})
    batch = {"tokens": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    mixed = columns.join(batch, [columns.reader(batch)(0)])
    assert mixed["tokens"].tolist() == [[5, 6, 0]] * 2
    assert mixed["attention_mask"].tolist() == [[1, 1, 0]] * 2


def test_labels_may_be_numbers_that_are_no_tokens() -> None:
    batch = {"input_ids": torch.tensor([[1, 2]]), "labels": torch.tensor([[0.5, -1.5]])}
    assert COLUMNS.join(batch, [COLUMNS.reader(batch)(0)])["labels"].tolist() == [[0.5, -1.5]] * 2


def test_columns_must_be_the_same() -> None:
    row = COLUMNS.reader({"input_ids": torch.tensor([[1]])})(0)
    with pytest.raises(ValueError, match=r"columns \['input_ids', 'task_id'\], a kept sample has \['input_ids'\]"):
        COLUMNS.join({"input_ids": torch.tensor([[1]]), "task_id": torch.tensor([0])}, [row])
