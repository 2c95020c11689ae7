"""Collecting trajectories with a local model: many episodes at once against one after the other.

    python collection.py [agent] [--tasks 32] [--batch 16] [--rounds 3] [--family planning] [--base MODEL]

agent: a base model or a folder of AgentSFTTrainer.save_model; a trained one acts for several turns, an untrained one
mostly answers at once. Both sides run the same code, greedily in float32, on the same tasks, in turns; the first call
is a warm-up that does not count. A line of JSON each, and the ratio of their medians. Their records are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

from sagetune import world
from sagetune.config import ModelConfig
from sagetune.trajectories.agents import Said
from sagetune.trajectories.environment import AgentTask, WorldEnvironment
from sagetune.trajectories.episode import BadReply, Episode
from sagetune.trajectories.local import LocalAgent, local_agent
from sagetune.trajectories.record import AgentTrajectory

MAX_TURNS = 8


async def attempt(agent: LocalAgent, task: AgentTask) -> AgentTrajectory:
    episode = Episode(task, "speed")
    acting = agent.start(episode)
    goes_on = True
    while goes_on:
        if episode.num_turns == MAX_TURNS:
            return episode.end("max_steps")
        try:
            said = await acting.act(episode.messages, episode.tools)
        except BadReply as error:
            episode.count(completion_tokens=error.completion_tokens)
            return episode.end("bad_reply", str(error))
        assert isinstance(said, Said)
        episode.count(completion_tokens=said.completion_tokens)
        goes_on = episode.take(said.message)
    return episode.end("finished")


async def collect(agent: LocalAgent, tasks: list[AgentTask], concurrency: int) -> list[AgentTrajectory]:
    free = asyncio.Semaphore(concurrency)

    async def bounded(task: AgentTask) -> AgentTrajectory:
        async with free:
            return await attempt(agent, task)

    return await asyncio.gather(*map(bounded, tasks))


def timed(agent: LocalAgent, tasks: list[AgentTask], concurrency: int) -> tuple[float, list[AgentTrajectory]]:
    start = time.perf_counter()
    records = asyncio.run(collect(agent, tasks, concurrency))
    seconds = time.perf_counter() - start
    tokens = sum(record.figures.get("completion_tokens", 0) for record in records)
    steps = sum(len(record.steps) for record in records)
    row = {"concurrency": concurrency, "seconds": round(seconds, 2), "episodes": len(records), "steps": steps}
    print(json.dumps(row | {"tokens": tokens, "tokens_per_second": round(tokens / seconds, 1)}), flush=True)
    return seconds, records


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("agent", nargs="?", default="embedded:smollm2_135m")
    parser.add_argument("--base", default=None)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--family", default="planning")
    given = parser.parse_args()
    tasks = [
        AgentTask(task.id, task.user, lambda task=task: WorldEnvironment(task))  # type: ignore[misc]
        for task in world.tasks(given.family, "train", given.tasks, seed=0)
    ]
    config = ModelConfig(dtype="float32")
    agent = local_agent(given.agent, base_model=given.base, config=config, max_new_tokens=96, batch_size=given.batch)
    asyncio.run(collect(agent, tasks[:2], 2))
    seconds: dict[int, list[float]] = {1: [], given.batch: []}
    said = []
    for _ in range(given.rounds):
        for concurrency, times in seconds.items():
            elapsed, records = timed(agent, tasks, concurrency)
            times.append(elapsed)
            said.append([record.messages for record in records])
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[given.batch])
    same = sum(one == other for one, other in zip(said[0], said[1], strict=True))
    print(json.dumps({"ratio": round(ratio, 2), "same_records": same, "of": len(tasks)}))


if __name__ == "__main__":
    main()
