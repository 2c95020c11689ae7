"""A model in this process as an agent: what is asked until the event loop has come to rest is generated together.

Generation runs in the loop, not in a thread: while it lasts no environment steps on, so what its answers lead to and
what new episodes ask comes together again in the next batch. In a thread the episodes would drift apart.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sagetune.adapters import load_adapter
from sagetune.chat import prepare_tokenizer, prompt_ids, stop_token_ids
from sagetune.config import ModelConfig
from sagetune.evaluation.calls import Reply, parse_reply
from sagetune.generation import generate
from sagetune.likelihood import ChoiceScore, score_choices
from sagetune.models import load_model, load_tokenizer
from sagetune.sample import Message, ToolCall
from sagetune.trajectories.agents import Agent, Said
from sagetune.trajectories.episode import BadReply, CutOff, Episode

MAX_NEW_TOKENS = 256
VALUES_LOOKED_AT = 256
"""Of each tensor, to tell one model from another: training moves all of them, and reading them all takes a while."""
QUIET_PASSES = 20
"""Passes of the event loop without a further request before a batch is closed. An episode that starts in place of one
that ended needs several until it asks; without waiting for it the episodes would drift apart into small batches."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A reply as the model drew it."""

    prompt: list[int]
    tokens: list[int]
    """With the token that ended the reply; one that was cut off has none."""


class LocalAgent:
    """A causal language model, or a PeftModel around one, with a tokenizer whose template serves tools.

    temperature: 0 = greedy; above, an episode's draws follow from `seed` and from what makes the attempt the same one,
    whatever runs beside it. Used by `act` alone, without an episode, they follow from `seed` and the order of requests.
    max_new_tokens: of one reply; a longer one is cut off, which is a BadReply. max_length: of a conversation and its
    reply, where the model allows more.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        batch_size: int = 16,
        seed: int = 0,
        max_length: int | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._batch_size = batch_size
        self._turns = Turns(self, str(seed))
        self._seed = seed
        self._context = min(context_length(model, tokenizer), max_length or sys.maxsize)
        self._stops = stop_token_ids(tokenizer)
        self._prompts: list[list[int]] = []
        self._seeds: list[int] = []
        self._batch: asyncio.Task[list[list[int]]] | None = None

    @property
    def identity(self) -> str:
        """What the answers rest on, in 12 hexadecimal digits: the template, each tensor's dtype, and some of it."""
        digest = hashlib.sha256(str(self._tokenizer.chat_template).encode())
        for name, tensor in self._model.named_parameters():
            step = max(1, tensor.numel() // VALUES_LOOKED_AT)
            values = tensor.detach().reshape(-1)[::step].to("cpu", torch.float32)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + values.numpy().tobytes())
        return digest.hexdigest()[:12]

    def start(self, episode: Episode, drawn: list[Drawn] | None = None) -> Agent:
        """The agent with the draws of this attempt; `drawn` receives each, also one that cannot be read."""
        attempt = (self._seed, episode.task.id, episode.method, episode.seed, episode.attempt)
        return Turns(self, json.dumps(attempt), drawn)

    async def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Said:
        """Raises BadReply for what cannot be run, for a reply cut off and for a conversation that does not fit."""
        return await self._turns.act(messages, tools)

    def prompt(self, messages: list[Message], tools: list[dict[str, Any]]) -> list[int]:
        """The tokens that the model goes on from. Raises BadReply for a conversation that does not fit."""
        prompt = prompt_ids(messages, tools, self._tokenizer)
        if len(prompt) + self._max_new_tokens > self._context:
            raise BadReply(
                f"the conversation has {len(prompt)} tokens; with a reply of {self._max_new_tokens} it exceeds the "
                f"{self._context} that fit"
            )
        return prompt

    async def draw(self, messages: list[Message], tools: list[dict[str, Any]], seed: int) -> Drawn:
        """What the model writes with the draws of `seed`. Raises BadReply for a conversation that does not fit."""
        prompt = self.prompt(messages, tools)
        return Drawn(prompt, await self._generated(prompt, seed))

    def text(self, drawn: Drawn) -> str:
        """What was written, without the token that ended it."""
        return self._tokenizer.decode(self._written(drawn))

    def _written(self, drawn: Drawn) -> list[int]:
        return drawn.tokens[:-1] if drawn.tokens[-1:] and drawn.tokens[-1] in self._stops else drawn.tokens

    def read(self, drawn: Drawn, tools: list[dict[str, Any]]) -> Said:
        """The message that was written. Raises BadReply for what cannot be run and for a reply cut off."""
        tokens, text = self._written(drawn), self.text(drawn)
        costs = {"prompt_tokens": len(drawn.prompt), "completion_tokens": len(tokens)}
        if len(tokens) == self._max_new_tokens:
            raise CutOff(f"the reply was cut off after {len(tokens)} tokens", text, **costs)
        parsed = parse_reply(text) if tools else Reply(text.strip(), [], None if text.strip() else "the reply is empty")
        if parsed.error is not None:
            raise BadReply(parsed.error, text, **costs)
        message: Message = {"role": "assistant", "content": parsed.content}
        if parsed.calls:
            message["tool_calls"] = [_numbered(number, call) for number, call in enumerate(parsed.calls, start=1)]
        return Said(message, **costs)

    def preferences(
        self, asked: Sequence[tuple[list[Message], list[dict[str, Any]], Sequence[str]]]
    ) -> list[list[ChoiceScore]]:
        """How likely each of the given replies is: (messages, tools, replies) -> a score for each reply."""
        prompts = [prompt_ids(messages, tools, self._tokenizer) for messages, tools, _ in asked]
        choices = [list(replies) for _, _, replies in asked]
        return score_choices(self._model, self._tokenizer, prompts, choices, batch_size=self._batch_size)

    async def _generated(self, prompt: list[int], seed: int) -> list[int]:
        if self._batch is None or self._batch.done():
            self._prompts, self._seeds = [], []
            self._batch = asyncio.create_task(self._generate(self._prompts, self._seeds))
        batch, place = self._batch, len(self._prompts)
        self._prompts.append(prompt)
        self._seeds.append(seed)
        return (await asyncio.shield(batch))[place]  # shielded: who gives up must not take the others along

    async def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        asked = 0
        while asked < len(prompts):
            asked = len(prompts)
            for _ in range(QUIET_PASSES):
                await asyncio.sleep(0)
        return generate(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens=self._max_new_tokens,
            batch_size=self._batch_size,
            temperature=self._temperature,
            seeds=seeds,
            keep_stop=True,
        )


class Turns:
    """The replies of one attempt: each has a seed of its own."""

    def __init__(self, agent: LocalAgent, name: str, drawn: list[Drawn] | None = None) -> None:
        self._agent = agent
        self._name = name
        self._drawn = drawn
        self._number = 0

    async def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Said:
        self._number += 1
        digest = hashlib.sha256(f"{self._name} {self._number}".encode()).digest()
        drawn = await self._agent.draw(messages, tools, int.from_bytes(digest[:7], "big"))
        if self._drawn is not None:
            self._drawn.append(drawn)
        return self._agent.read(drawn, tools)


def local_agent(
    where: str,
    *,
    base_model: str | None = None,
    config: ModelConfig | None = None,
    device: torch.device | None = None,
    **options: Any,
) -> LocalAgent:
    """The agent of a base model (hub id, folder, "embedded:...") or of a folder that AgentSFTTrainer.save_model wrote.

    base_model: what an adapter was trained on, where its folder does not say. device: None = a GPU where there is one.
    options: of LocalAgent.
    """
    config = config or ModelConfig()
    folder = Path(where).expanduser()
    is_adapter = (folder / "adapter_config.json").is_file()
    base = _base_of(folder, base_model) if is_adapter else where
    model = load_model(base, config)
    if is_adapter:
        model = load_adapter(model, folder)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (folder / "tokenizer_config.json").is_file():  # the one it was trained with, template included
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        prepare_tokenizer(tokenizer, config.chat_template)
    else:
        tokenizer = load_tokenizer(base, config)
    return LocalAgent(model.to(device).eval(), tokenizer, **options)


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model or its tokenizer allows, the smaller; sys.maxsize if neither says."""
    stated = model.config.get_text_config().to_dict().get("max_position_embeddings")
    return min(stated or sys.maxsize, int(tokenizer.model_max_length))


def _numbered(number: int, call: Any) -> ToolCall:
    return {"id": f"call_{number}", "type": "function", "function": call}


def _base_of(folder: Path, otherwise: str | None) -> str:
    base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path") or otherwise
    if not base:
        raise ValueError(f"agent: {folder} does not say which model it adapts: give base_model")
    return base
