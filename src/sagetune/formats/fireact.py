"""FireAct's three forms <-> Sample: fine-tuning data in Alpaca's and OpenAI's form, and recorded runs.

alpaca: {"instruction", "input", "output": the whole trajectory as ReAct text}
gpt:    {"messages": [user, assistant "Thought.. Action..", user "Observation: ..", ...]}
run:    {"reward", "em", "f1", "gt", "pred", "prompt", "traj": text or messages, "traj_by_line"}

Read, all are the same: the question, then assistant messages that call `search` and `finish`, and their results as
tool messages, which carry no loss. What does not belong to the conversation is told in `meta`:

method: react, cot or reflexion. success, reward: what the environment said at the end, and in which word.
fireact: what the record had otherwise: its form, the lines with the reward, few-shot prompt or instruction frame,
the choices of a question that stood in the output, irregular layout. `to_fireact` writes the very same record from it.

Source: github.com/anchen1011/FireAct, commit 94c6189f (arXiv:2310.05915).
"""

from __future__ import annotations

import re
from typing import Any

from sagetune.formats.decoding import require, turns_of
from sagetune.formats.react import LABEL, from_react, to_react
from sagetune.sample import Message, Sample, check_sample

FORMS = ("alpaca", "gpt", "run")
METHODS = ("react", "cot", "reflexion")
REWARD = re.compile(r"Episode finished, reward = (\S+)")
ACTION = re.compile(r"^Action: ", re.M)
REFLECTION = "Now that I haven't solved the task within"
FAILED = ("false", "0")
OBSERVATION = "Observation: "
FRAME = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n",
    "\n\n### Response:\n",
)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
                "additionalProperties": False,
            },
        },
    }
    for name, argument, description in (
        ("search", "query", "Search the web; returns a short snippet, which may hold the answer."),
        ("finish", "answer", "Give the answer and end the task."),
    )
]


def form_of(record: Any) -> str | None:
    """Which of FORMS `record` is in, None if in none: it has to hold actions as ReAct text."""
    if not isinstance(record, dict):
        return None
    if {"traj", "gt", "pred"} <= set(record):
        return "run"
    output, messages = record.get("output"), record.get("messages")
    if "instruction" in record and isinstance(output, str) and ACTION.search(output):
        return "alpaca"
    if isinstance(messages, list) and messages and all(_is_plain(message) for message in messages):
        observed = any(m["role"] == "user" and m["content"].startswith(OBSERVATION) for m in messages)
        return "gpt" if observed and any(ACTION.search(m["content"]) for m in messages) else None
    return None


def from_fireact(record: dict[str, Any]) -> Sample:
    """The checked sample in `record`. Raises ValueError if it is in none of FORMS, or holds no reply."""
    form = form_of(record)
    if form is None:
        raise ValueError(f"record: is in none of FireAct's forms ({', '.join(FORMS)})")
    messages, told = {"alpaca": _from_alpaca, "gpt": _from_gpt, "run": _from_run}[form](record)
    rewards = [found[1].rstrip(".") for line in told.get("rewards", []) if (found := REWARD.match(line["content"]))]
    success = record["reward"] if form == "run" else bool(rewards) and rewards[-1].lower() not in FAILED
    meta = {"method": _method(form, messages, told, rewards), "success": bool(success)}
    if rewards:
        meta["reward"] = rewards[-1]
    sample: Sample = {
        "id": str(record.get("id") or ""),
        "messages": messages,
        "tools": TOOLS,
        "task": "",
        "source": "",
        "meta": meta | {"fireact": {"form": form} | told},
    }
    check_sample(sample)
    return sample


def to_fireact(sample: Sample) -> dict[str, Any]:
    """The record that `sample` was read from. Raises ValueError if it was read from another format."""
    told = sample["meta"].get("fireact")
    if told is None:
        raise ValueError("meta.fireact: the sample was not read from a record of FireAct")
    return {"alpaca": _to_alpaca, "gpt": _to_gpt, "run": _to_run}[told["form"]](sample["messages"], told)


def _is_plain(message: Any) -> bool:
    return isinstance(message, dict) and set(message) == {"role", "content"} and isinstance(message["content"], str)


def _from_alpaca(record: dict[str, Any]) -> tuple[list[Message], dict[str, Any]]:
    require(record, "instruction", str, "a string")
    if record.get("input") is not None:
        require(record, "input", str, "a string")
    start = LABEL.search(record["output"])
    lead = record["output"][: start.start()] if start else ""
    messages, told = _from_text(record["output"][len(lead) :])
    if lead:
        told["lead"] = lead
    if record.get("input"):
        told["input"] = record["input"]
    asked = [record["instruction"], record.get("input"), lead.removesuffix("\n")]
    return [{"role": "user", "content": "\n".join(text for text in asked if text)}, *messages], told


def _to_alpaca(messages: list[Message], told: dict[str, Any]) -> dict[str, Any]:
    lead, given = told.get("lead", ""), told.get("input", "")
    question = messages[0]["content"]
    for text in (lead.removesuffix("\n"), given):
        question = question.removesuffix(f"\n{text}") if text else question
    return {"instruction": question, "input": given, "output": lead + _to_text(messages[1:], told)}


def _from_text(text: str) -> tuple[list[Message], dict[str, Any]]:
    """Messages without the lines that tell the reward; these and the layout apart."""
    messages, layout = from_react(text)
    told: dict[str, Any] = {"layout": layout} if layout else {}
    rewards: list[dict[str, str]] = []
    while messages and messages[-1]["role"] == "tool" and REWARD.fullmatch(messages[-1]["content"]):
        rewards.insert(0, {"role": "tool", "content": messages.pop()["content"]})
    return messages, told | ({"rewards": rewards} if rewards else {})


def _to_text(messages: list[Message], told: dict[str, Any]) -> str:
    return to_react([*messages, *told.get("rewards", [])], told.get("layout"))


def _from_gpt(record: dict[str, Any]) -> tuple[list[Message], dict[str, Any]]:
    turns = list(record["messages"])
    told: dict[str, Any] = {}
    rewards: list[dict[str, str]] = []
    while turns and REWARD.fullmatch(turns[-1]["content"].removeprefix(OBSERVATION)):
        turn = turns.pop()
        rewards.insert(0, {"role": turn["role"], "content": turn["content"].removeprefix(OBSERVATION)})
    if rewards:
        told["rewards"] = rewards
    if turns and turns[0]["role"] == "assistant" and not LABEL.match(turns[0]["content"]):
        question, _, reply = turns[0]["content"].partition("\n")
        turns[:1] = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        told["question_in_reply"] = True
    messages, layouts = _from_turns(turns)
    return messages, told | ({"layouts": layouts} if layouts else {})


def _from_turns(turns: list[dict[str, str]]) -> tuple[list[Message], dict[str, Any]]:
    """An observation answers the first call of the turn before it: what came after that, the agent made up."""
    messages: list[Message] = []
    layouts: dict[str, Any] = {}
    waiting = ""
    num_calls = 0
    for index, turn in enumerate(turns):
        content = turn["content"]
        if turn["role"] == "assistant":
            read, layout = from_react(content + "\n")
            calls = [call for message in read for call in message.get("tool_calls", [])]
            for call in calls:
                num_calls += 1
                call["id"] = f"call_{num_calls}"
            waiting = calls[0]["id"] if calls else ""
            messages += read
            if layout:
                layouts[str(index)] = layout
        elif turn["role"] == "user" and index and content.startswith(OBSERVATION):
            answer: Message = {"role": "tool", "content": content.removeprefix(OBSERVATION)}
            messages.append({**answer, "tool_call_id": waiting} if waiting else answer)
            waiting = ""
        else:
            messages.append({"role": turn["role"], "content": content})
    return messages, layouts


def _to_gpt(messages: list[Message], told: dict[str, Any]) -> dict[str, Any]:
    turns = _to_turns(messages, told.get("layouts", {}))
    if told.get("question_in_reply"):
        turns[:2] = [{"role": "assistant", "content": f"{turns[0]['content']}\n{turns[1]['content']}"}]
    for line in told.get("rewards", []):
        turns.append({"role": line["role"], "content": OBSERVATION + line["content"]})
    return {"messages": turns}


def _to_turns(messages: list[Message], layouts: dict[str, Any]) -> list[dict[str, str]]:
    """Messages of the assistant that follow each other were one turn."""
    turns: list[dict[str, str]] = []
    said: list[Message] = []
    for message, after in zip(messages, [*messages[1:], None], strict=True):
        if message["role"] == "assistant":
            said.append(message)
            if after is None or after["role"] != "assistant":
                text = to_react(said, layouts.get(str(len(turns))))
                turns.append({"role": "assistant", "content": text.removesuffix("\n")})
                said = []
        elif message["role"] == "tool":
            turns.append({"role": "user", "content": OBSERVATION + message["content"]})
        else:
            turns.append({"role": message["role"], "content": message["content"]})
    return turns


def _from_run(record: dict[str, Any]) -> tuple[list[Message], dict[str, Any]]:
    rest = {key: value for key, value in record.items() if key not in ("id", "traj", "traj_by_line")}
    traj, prompt = record["traj"], record.get("prompt") or ""
    if not isinstance(traj, str) and not all(_is_plain(turn) for turn in turns_of("traj", traj)):
        raise ValueError("traj: expected ReAct text, or messages of role and content")
    if not isinstance(prompt, type(traj)) and prompt:
        raise ValueError(f"prompt: expected what traj is, a {type(traj).__name__}, got {prompt!r:.80}")
    require(record, "reward", bool | int | float, "true, false or a number")
    told: dict[str, Any] = {"run": rest}
    if prompt and traj[: len(prompt)] == prompt:  # FireAct cuts the few-shot prompt off; other recorders may not
        traj = traj[len(prompt) :]
        told["prompt_in_traj"] = True
    if not isinstance(traj, str):
        messages, more = _from_gpt({"messages": traj})
        return messages, told | more
    told["by_line"] = "traj_by_line" in record
    if traj.startswith(FRAME[0]) and FRAME[1] in traj:
        question, _, text = traj.removeprefix(FRAME[0]).partition(FRAME[1])
        told["frame"] = True
    else:
        start = LABEL.search(traj)
        question, text = (traj[: start.start()].removesuffix("\n"), traj[start.start() :]) if start else (traj, "")
    messages, more = _from_text(text)
    return [{"role": "user", "content": question}, *messages], told | more


def _to_run(messages: list[Message], told: dict[str, Any]) -> dict[str, Any]:
    record = dict(told["run"])
    if "by_line" not in told:
        turns = _to_gpt(messages, told)["messages"]
        return record | {"traj": [*record["prompt"], *turns] if told.get("prompt_in_traj") else turns}
    opened, closed = FRAME if told.get("frame") else ("", "\n")
    text = opened + messages[0]["content"] + closed + _to_text(messages[1:], told)
    text = record["prompt"] + text if told.get("prompt_in_traj") else text
    return record | {"traj": text} | ({"traj_by_line": text.split("\n")} if told["by_line"] else {})


def _method(form: str, messages: list[Message], told: dict[str, Any], rewards: list[str]) -> str:
    """reflexion: it holds the fixed thought. cot: it never called a tool but finish.

    FireAct turned its chain-of-thought answers into episodes of one round. A run that was prompted to act and needed
    no search looks the same, but for traces of the program that recorded it: Python's True in place of 1, and in
    Alpaca's form a newline at the end.
    """
    if any(message["role"] == "assistant" and REFLECTION in message["content"] for message in messages):
        return "reflexion"
    names = [call["function"]["name"] for message in messages for call in message.get("tool_calls", [])]
    if any(name != "finish" for name in names):
        return "react"
    recorded = form == "alpaca" and "end" not in told.get("layout", {})
    return "react" if recorded or (form != "run" and rewards[-1:] == ["True"]) else "cot"
