"""The model's own solutions of the world's tasks that its checker passes: on-policy replay (arXiv:2605.29495)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sagetune import world
from sagetune.chat import prompt_ids
from sagetune.config import EvaluationConfig
from sagetune.evaluation.calls import parse_reply
from sagetune.generation import generate
from sagetune.sample import Message, Sample, ToolCall


@dataclass(slots=True)
class _Episode:
    """A task being solved."""

    sample: Sample
    environment: world.Environment
    messages: list[Message]
    turns_left: int


def own_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    config: EvaluationConfig,
) -> list[Sample]:
    """The samples with the model's own messages in place of the expert's, without those that it does not solve.

    samples: of the embedded world. The model acts greedily, with its tools, for as many turns as the expert took.
    Raises ValueError for a sample of any other source.
    """
    episodes = [_start(sample) for sample in samples]
    running = episodes
    while running:
        prompts = [prompt_ids(episode.messages, episode.sample["tools"], tokenizer) for episode in running]
        written = generate(
            model, tokenizer, prompts, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size
        )
        pairs = zip(running, written, strict=True)
        running = [episode for episode, tokens in pairs if _act(episode, tokenizer.decode(tokens))]
    return [
        {**episode.sample, "messages": episode.messages}
        for episode in episodes
        if world.check(episode.environment.task, episode.messages).passed
    ]


def _start(sample: Sample) -> _Episode:
    first = next(place for place, message in enumerate(sample["messages"]) if message["role"] == "assistant")
    turns = sum(message["role"] == "assistant" for message in sample["messages"])
    return _Episode(sample, world.Environment(world.task_of(sample)), sample["messages"][:first], turns)


def _act(episode: _Episode, text: str) -> bool:
    """Add the turn that the model wrote and what its tools return; whether the model is to go on."""
    reply = parse_reply(text)
    episode.turns_left -= 1
    if reply.error is not None:
        return False
    if not reply.calls:
        episode.messages.append({"role": "assistant", "content": reply.content})
        return False
    start = sum(message["role"] == "tool" for message in episode.messages) + 1
    calls: list[ToolCall] = [
        {"id": f"call_{number}", "type": "function", "function": call}
        for number, call in enumerate(reply.calls, start=start)
    ]
    episode.messages.append({"role": "assistant", "content": reply.content, "tool_calls": calls})
    if not episode.turns_left:
        return False  # a task that ends with its call ends before the observation
    for call in calls:
        seen = episode.environment.step(call)
        name = call["function"]["name"]
        episode.messages.append({"role": "tool", "content": seen, "tool_call_id": call["id"], "name": name})
    return True
