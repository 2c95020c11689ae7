"""Write the study's tokens: 400 seeded agent conversations, encoded once, so that every side trains on the same ids.

    python make_data.py <folder>      writes data.json: model folder, pad token, rows of {"input_ids", "labels"}

A conversation is a system message, a request, one to three tool calls with their results, and an answer. Lengths are
log-normal; the last line printed says how they came out.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from pathlib import Path

from sagetune import chat, models
from sagetune.config import ModelConfig
from sagetune.sample import Message, Sample

SEED = 1234
NUM_SAMPLES = 400
LONGEST = 1024
MODEL = "embedded:smollm2_135m"
TOOLS = "search_web get_weather query_db send_email read_file calculator book_flight list_orders create_event"
WORDS = (
    "the of and to in is that for it as was with be by on not at are this have from or had an which one you were all "
    "there would their we him been has when who will more if out so said what its about than into them can only other "
    "new some could these two may then do first any my now such our over even most made after also many before "
    "must through back years where much your way well down should because each just those people state good very make "
    "report order status invoice delivery customer account balance region server latency error retry budget flight "
    "hotel forecast rain wind temperature meeting agenda summary table column value median total count limit update "
    "ticket priority owner release version branch review Paris Berlin Tokyo Oslo Lagos Quito Delhi Kyoto Boston Lima"
)


def sentences(rng: random.Random, num_words: int) -> str:
    """About `num_words` words in sentences of 6 to 14."""
    words, parts = WORDS.split(), []
    while num_words > 0:
        length = min(num_words, rng.randint(6, 14))
        num_words -= length
        parts.append(" ".join(rng.choice(words) for _ in range(length)).capitalize() + ".")
    return " ".join(parts)


def conversation(rng: random.Random, index: int) -> Sample:
    """One conversation whose number of words is log-normal."""
    num_words = int(min(620, max(12, math.exp(rng.gauss(math.log(185), 0.62)) - 60)))
    calls = 1 if num_words < 180 else rng.choice([1, 1, 2, 2, 3])
    tools = ", ".join(rng.sample(TOOLS.split(), 3))
    messages: list[Message] = [
        {"role": "system", "content": f"You are an agent. Tools: {tools}. {sentences(rng, int(num_words * 0.08))}"},
        {"role": "user", "content": sentences(rng, max(6, int(num_words * 0.12)))},
    ]
    for call in range(calls):
        arguments = {"query": sentences(rng, rng.randint(3, 7)), "limit": rng.randint(1, 20)}
        name = rng.choice(TOOLS.split())
        function = {"id": f"call_{call}", "type": "function", "function": {"name": name, "arguments": arguments}}
        thought = sentences(rng, int(num_words * 0.07 / calls))
        messages.append({"role": "assistant", "content": thought, "tool_calls": [function]})  # type: ignore[typeddict-item]
        result = json.dumps({"status": "ok", "result": sentences(rng, int(num_words * 0.22 / calls))})
        messages.append({"role": "tool", "content": result, "tool_call_id": f"call_{call}", "name": name})
    messages.append({"role": "assistant", "content": sentences(rng, max(6, int(num_words * 0.2)))})
    return {"id": str(index), "messages": messages, "tools": [], "task": "", "source": "speed", "meta": {}}


def main(folder: Path) -> None:
    rng = random.Random(SEED)
    config = ModelConfig(chat_template="chatml")
    tokenizer = models.load_tokenizer(MODEL, config)
    samples = [conversation(rng, index) for index in range(NUM_SAMPLES)]
    encoded, _ = chat.encode_all(samples, tokenizer, LONGEST)
    rows = [{"input_ids": sample.input_ids, "labels": sample.labels} for sample in encoded]
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model": models.locate(MODEL), "pad_token_id": tokenizer.pad_token_id, "rows": rows}
    (folder / "data.json").write_text(json.dumps(content))
    lengths = [len(row["input_ids"]) for row in rows]
    supervised = sum(label != chat.IGNORE_INDEX for row in rows for label in row["labels"]) / sum(lengths)
    print(
        f"{len(rows)} samples, {sum(lengths)} tokens, {supervised:.1%} supervised, length {min(lengths)} to "
        f"{max(lengths)}, median {statistics.median(lengths):.0f}, mean {statistics.mean(lengths):.0f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
