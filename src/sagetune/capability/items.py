"""One thing that is asked of an agent, and how what it does is judged. A sample of any source -> Item."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sagetune import world
from sagetune.config.stages import CAPABILITIES
from sagetune.evaluation.calls import Reply, canonical, render_reply
from sagetune.evaluation.scoring.instruction_following import InstructionGold, score_constraints, score_instructions
from sagetune.evaluation.scoring.planning import PlanGold, score_in_world, score_plan
from sagetune.evaluation.scoring.reasoning import gold_number, score_answer, score_gsm8k, score_yes_no
from sagetune.evaluation.scoring.selection import score_selection
from sagetune.evaluation.scoring.timing import score_timing
from sagetune.evaluation.scoring.tool_use import CATEGORIES, ToolUseGold, category_of, score_tool_use
from sagetune.evaluation.scoring.verdict import Scored, judged, unreadable
from sagetune.formats.bfcl import ANY_CALL, to_bfcl
from sagetune.formats.decoding import NO_CALL
from sagetune.sample import FunctionCall, Message, Sample
from sagetune.trajectories.environment import AgentTask, WorldEnvironment, one_reply
from sagetune.trajectories.record import AgentTrajectory, own_messages

BFCL_ID = re.compile(rf"(live_)?({'|'.join(CATEGORIES)})(_python)?_\d+(-\d+)*")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is asked, and its judge.

    family: a group inside the capability, told apart in the report. gold: what is right, for people.

    should_call: of timing, whether a tool is to be called. choices: of a choice between replies, all of them, the right
    one first; then likelihood can tell what the model prefers.
    """

    id: str
    family: str
    task: AgentTask
    score: Callable[[AgentTrajectory], Scored]
    gold: str
    should_call: bool | None = None
    choices: tuple[str, ...] = ()


def item_of(capability: str, sample: Sample) -> Item:
    """What `sample` asks of `capability`. Raises ValueError if it does not, naming the sample."""
    if capability not in CAPABILITIES:
        raise ValueError(f"capability must be one of {', '.join(CAPABILITIES)}, got {capability!r}")
    try:
        return _world_item(capability, sample) if sample["source"] == "world" else _item(capability, sample)
    except ValueError as error:
        raise ValueError(f"{capability}: sample {sample['id']!r}: {error}") from error


def asks_for(capability: str, family: str, kind: str) -> bool:
    """Whether a task of the world asks for a capability."""
    return {
        "tool_use": family == "tool_selection",
        "planning": family == "planning",
        "reasoning": family == "general" and kind in world.REASONING_KINDS,
        "instruction_following": family == "general" and kind not in world.REASONING_KINDS,
        "timing": family in ("timing", "tool_selection"),
        "tool_selection": family == "tool_selection",
    }[capability]


def reply_of(trajectory: AgentTrajectory) -> Reply:
    """All that the agent wrote, as one reply; an attempt that broke or was cut is unreadable."""
    _, own = own_messages(trajectory)
    turns = [message for message in own if message["role"] == "assistant"]
    if trajectory.status in ("bad_reply", "timeout") or not turns:
        return Reply("", [], trajectory.error or "no reply")
    calls = [call["function"] for turn in turns for call in turn.get("tool_calls", [])]
    return Reply(turns[-1]["content"], calls, None)


def question(
    item_id: str, family: str, asked: str, score: Callable[[str], Scored], gold: str, choices: tuple[str, ...] = ()
) -> Item:
    """A question without tools, judged by the text of the answer."""

    def judge(trajectory: AgentTrajectory) -> Scored:
        return _by_text(trajectory, score)

    task = one_reply(item_id, family, [{"role": "user", "content": asked}], [], {"role": "assistant", "content": gold})
    return Item(item_id, family, task, judge, gold, choices=choices)


def _by_text(trajectory: AgentTrajectory, score: Callable[[str], Scored]) -> Scored:
    """A text that was cut off is judged as far as it goes, as lm-evaluation-harness does.

    An unreadable reply has the figures of an empty one, so that every mean is over all replies.
    """
    if trajectory.status == "bad_reply" and trajectory.cut_off:
        return score(trajectory.cut_off)
    reply = reply_of(trajectory)
    return score(reply.content) if reply.error is None else replace(score(""), reason=reply.error)


def gsm8k_item(record: dict[str, Any], item_id: str) -> Item:
    """GSM8K: {question, answer}; the reply is asked to end as the gold does. Raises ValueError without a number."""
    gold_number(str(record["answer"]))
    asked = f"{record['question']}\nThink step by step, and end with: #### <number>"
    return question(item_id, "gsm8k", asked, lambda text: score_gsm8k(text, record["answer"]), record["answer"])


def hotpotqa_item(record: dict[str, Any], item_id: str) -> Item:
    """HotpotQA: {question, answer}, exact match."""
    asked = f"{record['question']}\nAnswer with the answer alone."
    gold = str(record["answer"])
    return question(item_id, "hotpotqa", asked, lambda text: score_answer(text, gold, asked), gold)


def strategyqa_item(record: dict[str, Any], item_id: str) -> Item:
    """StrategyQA: {question, answer: true or false}. Raises ValueError for another answer, such as "no"."""
    asked, right = f"{record['question']}\nAnswer yes or no.", record["answer"]
    if not isinstance(right, bool):
        raise ValueError(f"answer must be true or false, got {right!r:.80}")
    choices = ("yes", "no") if right else ("no", "yes")
    return question(item_id, "strategyqa", asked, lambda text: score_yes_no(text, right, asked), choices[0], choices)


def ifeval_item(record: dict[str, Any], item_id: str) -> Item:
    """IFEval: {key, prompt, instruction_id_list, kwargs}."""
    gold = InstructionGold(str(record["key"]), record["prompt"], record["instruction_id_list"], record["kwargs"])
    wanted = ", ".join(record["instruction_id_list"])
    return question(item_id, "ifeval", record["prompt"], lambda text: score_instructions(text, gold), wanted)


def _world_item(capability: str, sample: Sample) -> Item:
    task = world.task_of(sample)
    if not asks_for(capability, task.family, task.kind):
        raise ValueError(f"a task of family {task.family} and kind {task.kind} does not ask for it")
    if capability in ("timing", "tool_selection"):
        return _item(capability, sample)
    gold = "\n".join(render_reply(turn) for turn in sample["messages"] if turn["role"] == "assistant")
    if capability == "planning":
        acted = AgentTask(sample["id"], task.user, lambda: WorldEnvironment(task), task.kind, tuple(sample["messages"]))
        return Item(sample["id"], task.kind, acted, lambda trajectory: _score_plan_in_world(task, trajectory), gold)

    def judge(trajectory: AgentTrajectory) -> Scored:
        reply = reply_of(trajectory)
        if capability == "tool_use":
            return score_in_world(task, own_messages(trajectory)[1], reply.error)
        return score_constraints(reply, task)

    return Item(sample["id"], task.kind, _asked(sample, task.kind), judge, gold)


def _score_plan_in_world(task: world.Task, trajectory: AgentTrajectory) -> Scored:
    """Solved or not; figures: the order-aware scores of the calls against the expert's."""
    reply = reply_of(trajectory)
    opening, own = own_messages(trajectory)
    solved = score_in_world(task, [*opening, *own], reply.error)
    calls = [call["function"] for turn in world.expert(task) for call in turn.get("tool_calls", [])]
    plan = score_plan(reply, PlanGold(calls, prompt=task.user))
    figures = {"plan_f1": plan.score, **plan.figures}
    return Scored(solved.score, solved.correct, solved.parse_failure, solved.reason, figures)


def _item(capability: str, sample: Sample) -> Item:
    gold = _last_turn(sample)
    calls = [call["function"] for call in gold.get("tool_calls", [])]
    names = [tool["function"]["name"] for tool in sample["tools"]]
    asked = next((m["content"] for m in reversed(sample["messages"]) if m["role"] == "user"), "")
    category = _bfcl_category(sample["id"], gold)
    _check_tools(capability, calls, names, category)
    score = _scorer(capability, sample, calls, names, asked)
    family = str(sample["meta"].get("kind") or _bfcl_family(sample["id"], category) or sample["task"] or capability)
    should_call = _should_call(calls, category) if capability == "timing" else None
    choices = _choices(capability, calls, names)
    return Item(sample["id"], family, _asked(sample, family), score, render_reply(gold), should_call, choices)


def _bfcl_category(item_id: str, gold: Message) -> str:
    """The category of an item of BFCL, "" for anything else: besides the id, the gold must be as its files have it."""
    if not BFCL_ID.fullmatch(item_id):
        return ""
    category = category_of(item_id)
    answer = {"irrelevance": NO_CALL, "relevance": ANY_CALL}.get(category)
    fits = bool(gold.get("tool_calls")) if answer is None else gold["content"] == answer
    return category if fits else ""


def _bfcl_family(item_id: str, category: str) -> str:
    return f"live_{category}" if category and item_id.startswith("live_") else category


def _should_call(calls: list[FunctionCall], category: str) -> bool:
    return bool(calls) or category == "relevance"  # which asks for any call, so that no file has a gold one


def _check_tools(capability: str, calls: list[FunctionCall], names: list[str], category: str) -> None:
    """Raise ValueError for what no agent could do right, or wrong: the tools are missing."""
    if capability == "timing" and not names and not category:
        raise ValueError("it offers no tool, so there is nothing to decide")
    lacking = next((call["name"] for call in calls if call["name"] not in names), None)
    if lacking is not None:
        raise ValueError(f"{lacking!r}, which it calls, is none of the tools that it offers")


def _scorer(
    capability: str, sample: Sample, calls: list[FunctionCall], names: list[str], asked: str
) -> Callable[[AgentTrajectory], Scored]:
    category = _bfcl_category(sample["id"], _last_turn(sample))
    if capability == "timing":
        should_call = _should_call(calls, category)
        return lambda trajectory: score_timing(reply_of(trajectory), should_call, asked, names)
    if capability == "tool_use" and category:
        record = to_bfcl(sample)
        gold = ToolUseGold(category, record["function"], record.get("ground_truth", ()), asked)
        return lambda trajectory: score_tool_use(reply_of(trajectory), gold)
    if capability == "reasoning" and not calls:
        answer = _last_turn(sample)["content"]
        return lambda trajectory: _by_text(trajectory, lambda text: score_answer(text, answer, asked))
    if capability not in ("tool_selection", "planning", "tool_use"):
        raise ValueError("only tasks of the world and the question sets can be judged")
    if not calls:
        raise ValueError("its answer calls no tool")
    if capability == "tool_selection":
        return lambda trajectory: score_selection(reply_of(trajectory), calls[0]["name"], asked, names)
    if capability == "planning":
        told = sample["meta"].get("responses") or [None] * len(calls)  # Seal-Tools: the results that a call has
        responses = {call["name"]: len(names_of) for call, names_of in zip(calls, told, strict=True) if names_of}
        plan = PlanGold(calls, responses, asked)
        return lambda trajectory: score_plan(reply_of(trajectory), plan)
    return lambda trajectory: _same_calls(reply_of(trajectory), calls)


def _same_calls(reply: Reply, calls: list[FunctionCall]) -> Scored:
    """1 if the calls are the gold ones, in any order, with equal typed arguments, else 0."""
    if reply.error is not None:
        return unreadable(reply.error, ("name", "arguments"))
    given, wanted = ([(call["name"], canonical(call["arguments"])) for call in made] for made in (reply.calls, calls))
    names, arguments = (Counter(pair[i] for pair in given) == Counter(pair[i] for pair in wanted) for i in (0, 1))
    figures = {"name": float(names), "arguments": float(arguments)}
    return judged(Counter(given) == Counter(wanted), f"called {reply.calls!r:.120}", figures)


def _choices(capability: str, calls: list[FunctionCall], names: list[str]) -> tuple[str, ...]:
    """For a choice between tools: a call of each without arguments, the right one first."""
    if capability != "tool_selection":
        return ()
    right = calls[0]["name"]
    called = [{"id": "", "type": "function", "function": {"name": n, "arguments": {}}} for n in names if n != right]
    first = {"id": "", "type": "function", "function": {"name": right, "arguments": {}}}
    turns: Any = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in [first, *called]]
    return tuple(map(render_reply, turns))


def _asked(sample: Sample, family: str) -> AgentTask:
    last = max(place for place, message in enumerate(sample["messages"]) if message["role"] == "assistant")
    return one_reply(sample["id"], family, sample["messages"][:last], sample["tools"], sample["messages"][last])


def _last_turn(sample: Sample) -> Message:
    return next(message for message in reversed(sample["messages"]) if message["role"] == "assistant")
