"""Preference data: a reference -> pairs of a better and a worse conversation -> tokens. No torch.

A file holds pairs (`prompt`, `chosen`, `rejected`), or runs that say whether they succeeded, of which pairs are made:
lines of trajectories.jsonl, or tau-bench's records. Two runs of one task differ in what the environment answered and a
simulated user said; that is no part of the preference, and like every observation it carries no loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sagetune.chat import Encoded, Unfit
from sagetune.encoding_store import encode_once
from sagetune.formats.openai import from_openai
from sagetune.record_files import decode
from sagetune.sample import Message, Sample, check_sample
from sagetune.sources import check_skipped, endless, entries_of, file_and_split, in_split
from sagetune.trajectories.filter import successes_and_failures
from sagetune.trajectories.record import AgentTrajectory, from_dict, messages_of, own_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDES = ("chosen", "rejected")
RUN_FIELDS = ("task_id", "reward", "traj")
TRAJECTORY_FIELDS = ("task_id", "instruction", "steps")
KNOWN = (
    f"prompt, {' and '.join(SIDES)} (a pair); {', '.join(TRAJECTORY_FIELDS)} (a trajectory); {', '.join(RUN_FIELDS)} "
    "(a run of tau-bench)"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two conversations of one task. Only what follows the prompt carries a loss, and of that only assistant turns."""

    chosen: Sample
    rejected: Sample


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """The pairs of a reference, and one line for each record that was left out: where, which field, why."""

    pairs: list[Pair]
    skipped: list[str]


def load_pairs(reference: str, *, num_pairs: int | None, on_error: str = "raise") -> LoadedPairs:
    """The first `num_pairs` pairs of a file, its split or a data set of the hub (None = all), in its order.

    Runs are paired when all are read: the first success of a task with its first failure, and so on. on_error is that
    of `sagetune.sources.load`. Raises ValueError with place, field and reason for a bad record, and where there is no
    pair.
    """
    pairs: list[Pair] = []
    runs: list[AgentTrajectory] = []
    skipped: list[str] = []
    num_good = 0
    file, split = file_and_split(reference)
    for entry in entries_of(file):
        if len(pairs) == num_pairs:
            break
        try:
            found = read(decode(entry.record), entry.default_id)
        except ValueError as error:
            if on_error == "raise":
                raise ValueError(f"{entry.place}: {error}") from error
            skipped.append(f"{entry.place}: {error}")
            continue
        num_good += 1
        asked = found.chosen["messages"] if isinstance(found, Pair) else messages_of(found)
        if split is not None and not in_split(asked, split):
            continue
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            runs.append(found)
    check_skipped(num_good, skipped)
    pairs = _named_apart([*pairs, *pairs_of_runs(runs)][:num_pairs])
    if not pairs:
        raise ValueError(f"data {reference!r}: {_why_none(runs)}")
    return LoadedPairs(pairs, skipped)


def holds_pairs(reference: str) -> bool:
    """Whether the first record of a reference is a pair; runs, which may be paired, are conversations as well."""
    if endless(reference):
        return False
    entry = next(iter(entries_of(file_and_split(reference)[0])), None)
    try:
        record = None if entry is None else decode(entry.record)
    except ValueError:  # whoever reads the file says what is wrong with it
        return False
    return isinstance(record, dict) and all(side in record for side in SIDES)


def read(record: Any, default_id: str) -> Pair | AgentTrajectory:
    """The pair, or the run of which pairs can be made, in `record`. Raises ValueError naming the field."""
    if not isinstance(record, dict):
        raise ValueError(f"record: expected a JSON object, got {record!r:.80}")
    if all(side in record for side in SIDES):
        return read_pair(record, default_id)
    if all(field in record for field in RUN_FIELDS):
        return read_run(record, default_id)
    if all(field in record for field in TRAJECTORY_FIELDS):
        return from_dict(record)
    raise ValueError(f"record: holds no preference, has {', '.join(record) or 'no field'}; known are {KNOWN}")


def read_pair(record: dict[str, Any], default_id: str) -> Pair:
    """The pair in a record of `chosen`, `rejected` and mostly `prompt`, each a text or a list of messages.

    Where there is no `prompt`, or the sides repeat it, the prompt is what both sides begin with. `tools` are OpenAI
    functions, as a list or its JSON.
    """
    sides = {side: _messages(record, side, "assistant") for side in SIDES}
    prompt = _messages(record, "prompt", "user") if record.get("prompt") is not None else _shared(*sides.values())
    if not prompt:
        raise ValueError("prompt: is missing, and chosen and rejected begin with nothing that they share")
    name = str(record.get("id") or default_id)
    samples = {}
    for side, messages in sides.items():
        reply = messages[len(prompt) :] if messages[: len(prompt)] == prompt else messages
        if not reply or reply[0].get("role") != "assistant":
            role = reply[0].get("role") if reply else None
            raise ValueError(f"{side}: has to go on from the prompt with an assistant message, got role {role!r}")
        samples[side] = _sample(f"{name}/{side}", side, prompt, reply, record)
    return Pair(**samples)


def read_run(record: dict[str, Any], default_id: str) -> AgentTrajectory:
    """A run as tau-bench records it; reward 1 is success."""
    reward = record["reward"]
    if not isinstance(reward, int | float) or isinstance(reward, bool):
        raise ValueError(f"reward: expected a number, got {reward!r:.80}")
    sample = from_openai(record)
    asked = next((message["content"] for message in sample["messages"] if message["role"] == "user"), "")
    return AgentTrajectory(
        task_id=str(record["task_id"]),
        instruction=asked,
        steps=[],
        success=reward == 1,
        total_reward=float(reward),
        agent=default_id,
        messages=sample["messages"],
        tools=sample["tools"],
    )


def pairs_of_runs(runs: Iterable[AgentTrajectory]) -> Iterator[Pair]:
    """A pair of each success and failure of one task, in their order, each with the prompt that it answered to."""
    for name, chosen, rejected in successes_and_failures(runs):
        yield Pair(
            **{
                side: _sample(f"{name}/{side}", side, *own_messages(run), {"tools": run.tools, "task": run.family})
                for side, run in zip(SIDES, (chosen, rejected), strict=True)
            }
        )


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], dict[str, int]]:
    """The tokens of each pair's chosen and rejected, one after the other, and the number left out for each reason.

    A pair goes if either side does not fit whole: shortened apart, the sides would no longer answer to one prompt.
    """
    kept: list[Encoded] = []
    reasons: Counter[str] = Counter()
    samples = [sample for pair in pairs for sample in (pair.chosen, pair.rejected)]
    encoded, report = encode_once(samples, tokenizer, max_length)
    by_id: dict[str, Encoded | Unfit] = {side.sample_id: side for side in encoded}
    by_id |= {side.sample_id: side for side in report.unfit}
    for pair in pairs:
        sides = [by_id[sample["id"]] for sample in (pair.chosen, pair.rejected)]
        faults = [fault for side in sides if (fault := _fault(side)) is not None]
        if faults:
            reasons[f"dropped_{faults[0]}"] += 1
        else:
            kept += [side for side in sides if isinstance(side, Encoded)]
    return kept, dict(reasons)


def _fault(side: Encoded | Unfit) -> str | None:
    if isinstance(side, Unfit):
        return side.reason
    return "too_long" if side.dropped_messages else None


def _messages(record: dict[str, Any], field: str, role: str) -> list[dict[str, Any]]:
    """The messages of a field: a text is one message of `role`."""
    value = record[field]
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{field}: is an empty text, so there is nothing to prefer or to answer to")
        return [{"role": role, "content": value}]
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{field}: expected a text or a list of messages, got {value!r:.80}")
    return messages


def _shared(chosen: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What both begin with, up to the last assistant message that is left to each."""
    most = min(len(chosen), len(rejected)) - 1
    num = next((place for place in range(most) if chosen[place] != rejected[place]), max(most, 0))
    while num and chosen[num].get("role") != "assistant":
        num -= 1
    return chosen[:num]


def _sample(name: str, side: str, prompt: Sequence[Any], reply: Sequence[Any], record: dict[str, Any]) -> Sample:
    try:
        sample = from_openai({"messages": [*prompt, *reply], "tools": record.get("tools")})
    except ValueError as error:
        raise ValueError(f"{side}, counted from the prompt's first message: {error}") from error
    messages = [_weighed(message, place >= len(prompt)) for place, message in enumerate(sample["messages"])]
    found: Sample = {**sample, "id": name, "messages": messages, "task": str(record.get("task") or ""), "meta": {}}
    check_sample(found)
    return found


def _weighed(message: Message, is_reply: bool) -> Message:
    """The message with a loss only if it is an assistant's and part of the reply."""
    plain: Any = {key: value for key, value in message.items() if key != "loss"}
    if message["role"] != "assistant":
        return plain
    return plain | {"loss": message.get("loss", True)} if is_reply else plain | {"loss": False}


def _named_apart(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with a number behind each id that came before."""
    seen: Counter[str] = Counter()
    named = []
    for pair in pairs:
        seen[pair.chosen["id"]] += 1
        number = seen[pair.chosen["id"]]
        named.append(pair if number == 1 else Pair(_renamed(pair.chosen, number), _renamed(pair.rejected, number)))
    return named


def _renamed(sample: Sample, number: int) -> Sample:
    return {**sample, "id": f"{sample['id']}@{number}"}


def _why_none(runs: Sequence[AgentTrajectory]) -> str:
    if not runs:
        return "holds no record"
    good = sum(run.success for run in runs)
    return f"{good} of {len(runs)} runs succeeded, but there is no task with a success and a failure to compare"
