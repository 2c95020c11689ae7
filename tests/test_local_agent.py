"""A model in this process as an agent: batched, seeded, parsed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import conversation
from sagetune import world
from sagetune.adapters import add_adapter
from sagetune.chat import prompt_ids
from sagetune.config import (
    AdapterConfig,
    AgentSFTConfig,
    EvaluationConfig,
    ModelConfig,
    RunConfig,
    TrainerConfig,
    WandbConfig,
)
from sagetune.formats import to_openai
from sagetune.generation import Draws, generate
from sagetune.models import load_model, load_tokenizer
from sagetune.trainer import AgentSFTTrainer
from sagetune.trajectories import local
from sagetune.trajectories.agents import Said, as_agent
from sagetune.trajectories.environment import AgentTask, WorldEnvironment
from sagetune.trajectories.episode import BadReply, Episode
from sagetune.trajectories.local import LocalAgent, local_agent

SAMPLES = [conversation(index) for index in (0, 4, 5, 6)]
ASKED = [(sample["messages"][:1], sample["tools"]) for sample in SAMPLES]
PROMPTS = [[7, 3, 200], [9], [4] * 12]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("embedded:tiny", ModelConfig())


@pytest.fixture
def model() -> Any:
    return load_model("embedded:tiny", ModelConfig(dtype="float32"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that save_model wrote, of a tiny model that knows the first reply of each sample by heart."""
    folder = tmp_path_factory.mktemp("taught")
    records = [to_openai({**sample, "messages": sample["messages"][:2]}) for sample in SAMPLES]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    sft = AgentSFTConfig(
        "embedded:tiny",
        str(folder / "data.jsonl"),
        output_dir=folder,
        use_lora=False,
        learning_rate=5e-3,
        num_epochs=75,
        batch_size=4,
        gradient_accumulation_steps=1,
    )
    run = RunConfig(
        sft=sft,
        model=ModelConfig(dtype="float32"),
        evaluation=EvaluationConfig(data=None),
        trainer=TrainerConfig(accelerator="cpu"),
        wandb=WandbConfig(mode="disabled"),
    )
    trainer = AgentSFTTrainer(run)
    trainer.train()
    trainer.save_model(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def agent(taught: Path) -> LocalAgent:
    return local_agent(str(taught), config=ModelConfig(dtype="float32"))


def outcome(result: Said | BaseException) -> tuple[Any, ...]:
    if isinstance(result, BadReply):
        return str(result), result.text, result.prompt_tokens, result.completion_tokens
    assert isinstance(result, Said), result
    return tuple(result)


def together(agents: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What each of ASKED is answered, all asked at once; agents: one each."""

    async def ask() -> list[Any]:
        waiting = (agent.act(*asked) for agent, asked in zip(agents, ASKED, strict=True))
        return await asyncio.gather(*waiting, return_exceptions=True)

    return [outcome(result) for result in asyncio.run(ask())]


def alone(agents: Sequence[Any]) -> list[tuple[Any, ...]]:
    async def ask(agent: Any, asked: Any) -> Any:
        return (await asyncio.gather(agent.act(*asked), return_exceptions=True))[0]

    return [outcome(asyncio.run(ask(agent, asked))) for agent, asked in zip(agents, ASKED, strict=True)]


def episodes() -> list[Episode]:
    tasks = list(world.tasks("planning", "train", len(ASKED), seed=0))
    return [Episode(AgentTask(task.id, task.user, lambda task=task: WorldEnvironment(task)), "react") for task in tasks]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of prompts of each generation."""
    sizes: list[int] = []

    def counting(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        return generate(model, tokenizer, prompts, **options)

    monkeypatch.setattr(local, "generate", counting)
    return sizes


def test_a_batch_answers_as_each_alone(model: Any, tokenizer: Any, batches: list[int]) -> None:
    agent = LocalAgent(model, tokenizer, max_new_tokens=12, batch_size=3)
    expected = alone([agent] * 4)
    assert batches == [1, 1, 1, 1]
    assert together([agent] * 4) == expected
    assert batches[4:] == [4]
    assert len(set(expected)) > 1


def test_episodes_that_take_each_others_place_stay_in_one_batch(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 episodes of ragged lengths 4 run at once: no batch is smaller than 4 before the last ones run out."""
    sizes: list[int] = []

    def counted(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> list[list[int]]:
        sizes.append(len(prompts))
        return [tokenizer.encode("yes", add_special_tokens=False) for _ in prompts]

    monkeypatch.setattr(local, "generate", counted)
    agent = LocalAgent(model, tokenizer)
    free = asyncio.Semaphore(4)

    async def episode(number: int) -> None:
        async with free:
            for _ in range(1 + number % 3):
                await asyncio.wait_for(asyncio.create_task(agent.act(*ASKED[0])), timeout=60)

    async def all_of_them() -> None:
        await asyncio.gather(*map(episode, range(12)))

    asyncio.run(all_of_them())
    assert sizes == [4, 4, 4, 4, 4, 3, 1]


def test_a_saved_model_answers_as_it_was_taught(agent: LocalAgent, batches: list[int]) -> None:
    said = together([agent] * 4)
    assert batches == [4]
    assert said == alone([agent] * 4)
    for sample, (message, prompt_tokens, completion_tokens) in zip(SAMPLES, said, strict=True):
        assert message == sample["messages"][1]
        assert prompt_tokens > completion_tokens > 0


def test_an_adapter_is_put_on_the_model_that_it_names(agent: LocalAgent, taught: Path, tmp_path: Path) -> None:
    config = ModelConfig(dtype="float32")
    add_adapter(load_model(str(taught), config), AgentSFTConfig("x", "x"), AdapterConfig()).save_pretrained(tmp_path)
    assert together([local_agent(str(tmp_path), config=config)] * 4) == together([agent] * 4)
    other = local_agent(str(tmp_path), base_model="embedded:tiny", config=config, max_new_tokens=12)
    assert together([other] * 4) != together([agent] * 4)


def test_an_adapter_that_does_not_name_its_model_asks_for_it(model: Any, tmp_path: Path) -> None:
    add_adapter(model, AgentSFTConfig("x", "x"), AdapterConfig()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give base_model"):
        local_agent(str(tmp_path))


def test_a_base_model_is_an_agent_too() -> None:
    agent = local_agent("embedded:tiny", max_new_tokens=2)
    assert as_agent(agent) is agent
    with pytest.raises(BadReply, match="cut off after 2 tokens"):
        asyncio.run(agent.act(*ASKED[0]))


def test_draws_follow_from_the_attempt_and_not_from_its_company(model: Any, tokenizer: Any) -> None:
    def agent(seed: int = 3) -> LocalAgent:
        return LocalAgent(model, tokenizer, max_new_tokens=8, temperature=1.0, batch_size=3, seed=seed)

    def started(agent: LocalAgent) -> list[Any]:
        return [agent.start(episode) for episode in episodes()]

    expected = together(started(agent()))
    assert alone(started(agent())) == expected
    assert together(started(agent(seed=4))) != expected
    assert together([agent().start(episodes()[0])] * 4) != expected


def test_every_turn_and_every_attempt_draws_anew(model: Any, tokenizer: Any) -> None:
    agent = LocalAgent(model, tokenizer, max_new_tokens=8, temperature=1.0)
    task = episodes()[0].task
    attempts = [agent.start(Episode(task, "react", attempt=number)) for number in range(2)]
    said = [alone([attempt] * 4)[:1] + alone([attempt] * 4)[:1] for attempt in attempts]
    assert len({reply for replies in said for reply in replies}) == 4


def test_a_conversation_that_does_not_fit_is_a_bad_reply(model: Any, tokenizer: Any) -> None:
    length = len(prompt_ids(*ASKED[0], tokenizer))
    model.config.max_position_embeddings = length + 2
    with pytest.raises(BadReply, match="cut off"):
        asyncio.run(LocalAgent(model, tokenizer, max_new_tokens=2).act(*ASKED[0]))
    with pytest.raises(BadReply, match=f"has {length} tokens; with a reply of 3 it exceeds the {length + 2} that fit"):
        asyncio.run(LocalAgent(model, tokenizer, max_new_tokens=3).act(*ASKED[0]))


def test_who_gives_up_does_not_take_the_others_along(model: Any, tokenizer: Any, batches: list[int]) -> None:
    agent = LocalAgent(model, tokenizer, max_new_tokens=4)

    async def ask() -> Any:
        first, second = (asyncio.create_task(agent.act(*asked)) for asked in ASKED[:2])
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(ask())
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, BadReply)
    assert batches == [2]


def test_a_loop_that_ended_early_leaves_nothing_behind(model: Any, tokenizer: Any) -> None:
    agent = LocalAgent(model, tokenizer, max_new_tokens=4)

    async def leave() -> None:
        asyncio.create_task(agent.act(*ASKED[0]))  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert len(alone([agent] * 4)) == 4


def test_a_failing_model_is_no_bad_reply(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(local, "generate", failing)
    agent = LocalAgent(model, tokenizer)

    async def ask() -> Any:
        return await asyncio.gather(*(agent.act(*asked) for asked in ASKED), return_exceptions=True)

    assert [str(error) for error in asyncio.run(ask())] == ["out of memory"] * 4


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_seed_draws_the_same_wherever_the_prompt_stands(model: Any, tokenizer: Any, batch_size: int) -> None:
    options: Any = {"max_new_tokens": 10, "temperature": 0.8}
    expected = [generate(model, tokenizer, [PROMPTS[n]], batch_size=1, seeds=[n], **options)[0] for n in range(3)]
    assert generate(model, tokenizer, PROMPTS, batch_size=batch_size, seeds=[0, 1, 2], **options) == expected
    assert generate(model, tokenizer, PROMPTS, batch_size=batch_size, seeds=[5, 6, 7], **options) != expected


def test_draws_are_distributed_as_the_softmax_at_the_temperature() -> None:
    logits, temperature, num = torch.tensor([0.0, 1.0, 2.0, -1.0]), 0.7, 20_000
    draws = Draws(temperature, [1])
    counts = Counter(int(draws(torch.empty(1, 0), logits[None]).argmax()) for _ in range(num))
    expected = (logits / temperature).softmax(0) * num
    chi_square = sum((counts[token] - float(expected[token])) ** 2 / float(expected[token]) for token in range(4))
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_a_temperature_needs_a_seed_a_prompt(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="one seed a prompt"):
        generate(model, tokenizer, PROMPTS, max_new_tokens=1, batch_size=1, temperature=1.0, seeds=[1])


def test_a_low_temperature_is_greedy(model: Any, tokenizer: Any) -> None:
    greedy = generate(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=3)
    cold = generate(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=3, temperature=1e-6, seeds=[1, 2, 3])
    assert cold == greedy


def test_an_episode_takes_the_answer(agent: LocalAgent) -> None:
    episode = episodes()[0]
    said = asyncio.run(agent.start(episode).act(*ASKED[1]))  # type: ignore[arg-type]
    assert isinstance(said, Said)
    assert not episode.take(said.message)
    assert episode.end("finished").steps[0].action_input == {"answer": SAMPLES[1]["messages"][1]["content"]}
