"""Writing answers: ours against transformers' `generate`, one prompt at a time and in batches.

    python generation.py [--model embedded:smollm2_135m] [--dtype bfloat16] [--prompts 16] [--new 20] [--batch 16]
                         [--rounds 3] [--threads 2]

Three sets of prompts: `different`, user messages each with tools of its own; `shared`, user messages after one system
prompt with ten tools; `conversation`, the decision points of a few conversations, as evaluation asks for them. Greedy
to the end of turn or `--new` tokens. Transformers' batches are sorted by length. The ways take turns within a round;
before the first, each writes a little that does not count. A line of JSON a way and a set: median seconds, tokens a
second, how many times the seconds of one prompt at a time, and the share of tokens that are those of one at a time. In
bfloat16 tokens differ after a near-tie in whatever way they are written; float32 is where they have to be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from sagetune.processor import prepare_process

prepare_process()  # as every sagetune command does

import torch  # noqa: E402

from sagetune import world  # noqa: E402
from sagetune.chat import prompt_ids, stop_token_ids  # noqa: E402
from sagetune.config import ModelConfig  # noqa: E402
from sagetune.evaluation.actions import decision_points  # noqa: E402
from sagetune.generation import generate, plain  # noqa: E402
from sagetune.models import load_model, load_tokenizer  # noqa: E402

TOOLS = ("search_web", "get_weather", "query_db", "send_email", "read_file", "calculator", "book_flight")
TOOLS = (*TOOLS, "get_stock_price", "list_orders", "translate_text")
SYSTEM = "You are an agent with tools. " + " ".join(
    f"Tool {name}: takes query (string) and limit (integer); returns a JSON list of results for {name}."
    for name in TOOLS
)

Prompts = list[list[int]]
Answers = list[list[int]]


def prompt_sets(tokenizer: Any, num: int) -> dict[str, Prompts]:
    samples = [*world.generate("tool_selection", "test", num // 2, 0), *world.generate("timing", "test", num // 2, 0)]
    users: Any = [[{"role": "system", "content": SYSTEM}, sample["messages"][0]] for sample in samples]
    points = decision_points(world.generate("planning", "test", num, seed=0))
    return {
        "different": [prompt_ids(sample["messages"][:1], sample["tools"], tokenizer) for sample in samples],
        "shared": [prompt_ids(messages, [], tokenizer) for messages in users],
        "conversation": [prompt_ids(point.messages, point.tools, tokenizer) for point in points[:num]],
    }


def ways(model: Any, tokenizer: Any, batch_size: int) -> dict[str, Callable[[Prompts, int], Answers]]:
    def transformers_in_batches_of(size: int) -> Callable[[Prompts, int], Answers]:
        @torch.no_grad()
        def write(prompts: Prompts, num_new: int) -> Answers:
            limits: Any = {"max_new_tokens": num_new, "batch_size": size}
            greedy: Any = {"temperature": 0.0, "seeds": [], "keep_stop": False}
            batches = plain.batches(model, prompts, stops=stop_token_ids(tokenizer), **limits, **greedy)
            return [tokens for _, tokens in sorted(answer for batch in batches for answer in batch)]

        return write

    def ours(prompts: Prompts, num_new: int) -> Answers:
        return generate(model, tokenizer, prompts, max_new_tokens=num_new, batch_size=batch_size)

    return {
        "transformers, one at a time": transformers_in_batches_of(1),
        f"transformers, batches of {batch_size}": transformers_in_batches_of(batch_size),
        f"ours, {batch_size} at a time": ours,
    }


def same_tokens(reference: Answers, answers: Answers) -> float:
    same = sum(a == b for one, other in zip(reference, answers, strict=True) for a, b in zip(one, other, strict=False))
    return same / max(1, sum(map(len, reference)))


def compare(name: str, prompts: Prompts, candidates: dict[str, Callable[[Prompts, int], Answers]], given: Any) -> None:
    seconds: dict[str, list[float]] = {way: [] for way in candidates}
    answers: dict[str, Answers] = {}
    for write in candidates.values():
        write(prompts[:2], 2)
    for _ in range(given.rounds):
        for way, write in candidates.items():
            start = time.perf_counter()
            answers[way] = write(prompts, given.new)
            seconds[way].append(time.perf_counter() - start)
    reference = next(iter(candidates))
    for way, times in seconds.items():
        median = statistics.median(times)
        row = {
            "prompts": name,
            "way": way,
            "seconds": round(median, 2),
            "of_rounds": [round(time, 2) for time in times],
        }
        row["tokens_per_second"] = round(sum(map(len, answers[way])) / median, 1)
        row["times_one_at_a_time"] = round(statistics.median(seconds[reference]) / median, 2)
        row["same_tokens"] = round(same_tokens(answers[reference], answers[way]), 3)
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="embedded:smollm2_135m")
    parser.add_argument("--dtype", default="bfloat16")
    for option, number in {"prompts": 16, "new": 20, "batch": 16, "rounds": 3, "threads": 2}.items():
        parser.add_argument(f"--{option}", type=int, default=number)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = ModelConfig(dtype=given.dtype, attention="sdpa")
    tokenizer = load_tokenizer(given.model, config)
    model = load_model(given.model, config).eval()
    candidates = ways(model, tokenizer, given.batch)
    for name, prompts in prompt_sets(tokenizer, given.prompts).items():
        lengths = sorted(map(len, prompts))
        print(json.dumps({"prompts": name, "number": len(prompts), "tokens": [lengths[0], lengths[-1]]}), flush=True)
        compare(name, prompts, candidates, given)


if __name__ == "__main__":
    main()
