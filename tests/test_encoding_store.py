"""A pool is tokenised once: whoever asks for the same tokens again reads them, bit for bit, and for others never."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from conftest import conversation
from sagetune import encoding_store
from sagetune.chat import Encoded, EncodingReport, encode_all
from sagetune.config import BudgetConfig, DataConfig, ModelConfig, RunConfig
from sagetune.embedded import tiny_tokenizer
from sagetune.encoding_store import encode_once, pool_key
from sagetune.models import load_tokenizer
from sagetune.run_data import RunData
from sagetune.sample import KEEP_FIRST, Sample

LENGTH = 300
TOKENIZER = load_tokenizer("embedded:tiny", ModelConfig())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which small pools are kept, too; the path is the folder of tokens."""
    monkeypatch.setenv("SAGETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding_store, "KEPT_FROM", 2)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pools that were really tokenised."""
    sizes = []

    def counted(samples: list[Sample], *others: Any) -> tuple[list[Encoded], EncodingReport]:
        sizes.append(len(samples))
        return encode_all(samples, *others)

    monkeypatch.setattr(encoding_store, "encode_all", counted)
    return sizes


def pool() -> list[Sample]:
    """Plain conversations, and one of each kind that is treated in a way of its own."""
    samples = [conversation(index) for index in range(6)]
    weighted, observed, long, cut, forged, masked = (copy.deepcopy(conversation(place)) for place in range(6, 12))
    weighted["messages"][-1]["loss"] = 1 / 3
    observed["messages"][2:2] = [{"role": "tool", "content": "seen", "name": "add", "loss": 0.1}]
    long["messages"][-1]["content"] = "x" * LENGTH
    cut["messages"] = [*copy.deepcopy(conversation(1)["messages"]), *cut["messages"]] * 2
    forged["messages"][0]["content"] = "<|im_end|>"
    masked["messages"][-1]["loss"] = False
    return [*samples, weighted, observed, long, cut, forged, masked]


def test_what_is_read_is_what_was_encoded(encodings: list[int], cache: Path) -> None:
    direct = encode_all(pool(), TOKENIZER, LENGTH)
    assert {fault.reason for fault in direct[1].unfit} == {"too_long", "control_token", "unsupervised"}
    assert direct[1].truncated
    assert any(sample.weights for sample in direct[0])
    assert [encode_once(pool(), TOKENIZER, LENGTH) for _ in range(3)] == [direct] * 3
    assert encodings == [len(pool())]
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert not list(cache.glob("*.partial"))
    first = encode_once(pool(), TOKENIZER, LENGTH)[0][0]
    assert {type(token) for token in first.input_ids + first.labels} == {int}


def test_a_large_vocabulary_and_a_pool_of_which_nothing_fits_come_back_whole(cache: Path) -> None:
    large = [Encoded("a", "", [70_000, 3], [-100, 3], None, 0)], EncodingReport(1, [], [])
    none = [], EncodingReport(0, [], [])
    for encoded in (large, none):
        assert encoding_store._unpack(encoding_store._pack(*encoded)) == encoded


def changed(change: Callable[[list[Sample]], Any]) -> list[Sample]:
    samples = pool()
    change(samples)
    return samples


CHANGES: dict[str, Callable[[list[Sample]], Any]] = {
    "a letter": lambda pool: pool[0]["messages"][0].update(content="add one"),
    "a tool": lambda pool: pool[0]["tools"].clear(),
    "a weight": lambda pool: pool[0]["messages"][-1].update(loss=0.5),
    "a name": lambda pool: pool[0].update(id="other"),
    "a task": lambda pool: pool[0].update(task="other"),
    "what stays": lambda pool: pool[9]["meta"].update({KEEP_FIRST: 1}),
    "the order": lambda pool: pool.reverse(),
    "the number": lambda pool: pool.pop(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_samples_are_other_tokens(change: Callable[[list[Sample]], Any]) -> None:
    assert pool_key(changed(change), TOKENIZER, LENGTH) != pool_key(pool(), TOKENIZER, LENGTH)


def test_what_has_no_part_in_the_tokens_has_none_in_the_key() -> None:
    apart = changed(lambda pool: pool[0].update(source="elsewhere", meta={"note": object()}))
    assert pool_key(apart, load_tokenizer("embedded:tiny", ModelConfig()), LENGTH) == pool_key(
        pool(), TOKENIZER, LENGTH
    )


def test_another_tokenizer_template_length_or_code_is_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [pool_key(pool(), TOKENIZER, LENGTH), pool_key(pool(), TOKENIZER, LENGTH + 1)]
    for part in ("chat_template", "token", "special token"):
        other = tiny_tokenizer()
        other.chat_template = TOKENIZER.chat_template
        if part == "chat_template":
            other.chat_template += " "
        elif part == "token":
            other.add_tokens(["one and"])
        else:
            other.add_special_tokens({"unk_token": "<|unk|>"})
        keys.append(pool_key(pool(), other, LENGTH))
    monkeypatch.setattr(encoding_store, "CODE", ("chat.py",))
    keys.append(pool_key(pool(), TOKENIZER, LENGTH))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_broken_file_is_told_and_made_anew(damage: str, encodings: list[int], cache: Path) -> None:
    direct = encode_once(pool(), TOKENIZER, LENGTH)
    (path,) = cache.glob("*.safetensors")
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:middle], "bit": flipped, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"safetensors is broken: its samples are tokenised anew"):
        assert encode_once(pool(), TOKENIZER, LENGTH) == direct
    assert path.read_bytes() == whole
    assert len(encodings) == 2


def test_without_a_place_to_write_the_tokens_are_made_all_the_same(cache: Path, encodings: list[int]) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"tokens are not kept .* SAGETUNE_CACHE names another folder"):
        assert encode_once(pool(), TOKENIZER, LENGTH) == encode_all(pool(), TOKENIZER, LENGTH)
    assert len(encodings) == 1


def test_small_pools_and_templates_that_write_the_time_are_not_kept(cache: Path, encodings: list[int]) -> None:
    encode_once(pool()[:1], TOKENIZER, LENGTH)
    timed = load_tokenizer("embedded:tiny", ModelConfig())
    timed.chat_template += "{#- strftime_now('%d %b') -#}"
    for _ in range(2):
        encode_once(pool(), timed, LENGTH)
    assert encodings == [1, len(pool()), len(pool())]
    assert not cache.exists()


def test_files_of_long_ago_go_when_another_is_written(cache: Path) -> None:
    encode_once(pool(), TOKENIZER, LENGTH)
    (old,) = cache.glob("*.safetensors")
    os.utime(old, (0, 0))
    encode_once(pool(), TOKENIZER, LENGTH + 1)
    assert not old.exists()
    assert len(list(cache.glob("*.safetensors"))) == 1


def slow_first(folder: Path, start: Any, number: int) -> None:
    """Encode, leaving a mark of who did; the others come while the first is at it."""

    def marked(*given: Any) -> tuple[list[Encoded], EncodingReport]:
        (folder / f"encoded-{number}").touch()
        start.wait()
        return encode_all(*given)

    encoding_store.encode_all = marked
    encoded, _ = encode_once(pool(), TOKENIZER, LENGTH)
    (folder / f"tokens-{number}").write_text(str(encoded))


def test_of_several_processes_one_encodes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    jobs = [context.Process(target=slow_first, args=(tmp_path, start, number)) for number in range(3)]
    for job in jobs:
        job.start()
    start.set()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert len(list(tmp_path.glob("encoded-*"))) == 1
    assert len({path.read_text() for path in tmp_path.glob("tokens-*")}) == 1


def test_a_second_run_counts_its_data_alike(
    make_run: Callable[..., RunConfig], cache: Path, encodings: list[int]
) -> None:
    run = make_run(max_seq_length=900, budget=BudgetConfig(train_samples=12), data=DataConfig(seed=3))
    one, two = (RunData(run, lambda: TOKENIZER, Console(quiet=True)) for _ in range(2))
    assert one.pool().encoded == two.pool().encoded
    assert encodings == [12]
    assert one.counts == two.counts
