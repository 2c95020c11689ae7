"""TrajectoryToSFTConverter: a trajectory -> a record to train on. The reference's class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sagetune.config.trajectories import MIN_REWARD, CollectorConfig, SFTConversionConfig
from sagetune.formats.react import to_react
from sagetune.sample import KEEP_FIRST, Message, check_sample
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.filter import TrajectoryFilter
from sagetune.trajectories.record import AgentTrajectory, messages_of, own_messages


class TrajectoryToSFTConverter:
    """Turns trajectories into records that `sft.train_data` reads.

    chatml: a sample: the instruction, one assistant message a turn (thought, and tool calls), observations as tool
    messages without a loss. alpaca: {"instruction", "input", "output"} with this attempt's turns as ReAct text in
    `output`, arguments as JSON; it cannot hold a user's further turns.
    """

    def __init__(self, config: SFTConversionConfig | None = None) -> None:
        self.config = config or SFTConversionConfig()

    def convert(self, trajectories: Sequence[AgentTrajectory]) -> list[dict[str, Any]]:
        """One record a trajectory, in order, ids made distinct. Raises ValueError for a trajectory without a step."""
        records = [self.convert_single(trajectory) for trajectory in trajectories]
        seen: Counter[str] = Counter()
        for record in records:
            name = record.get("id")
            if name is not None:
                seen[name] += 1
                record["id"] = name if seen[name] == 1 else f"{name}#{seen[name]}"
        return records

    def convert_single(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        if not trajectory.steps:
            raise ValueError(f"trajectory {trajectory.task_id!r} has no step, so nothing can be learnt from it")
        return self._alpaca(trajectory) if self.config.format == "alpaca" else self._chat(trajectory)

    def _chat(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        _, own = own_messages(trajectory)
        messages = messages_of(trajectory)
        messages = [*messages[: len(messages) - len(own)], *(self._message(message) for message in own)]
        if not self.config.include_observation:
            messages = [message for message in messages if message["role"] != "tool"]
        if self.config.system_prompt is not None:
            messages = [message for message in messages if message["role"] != "system"]
            messages.insert(0, {"role": "system", "content": self.config.system_prompt})
        opened = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
        task_id, method, seed, attempt = trajectory.key
        sample: Any = {
            "id": f"{task_id}/{method}/{seed}/{attempt}",
            "messages": messages,
            "tools": trajectory.tools,
            "task": trajectory.family,
            "source": "trajectories",
            "meta": {
                "task_id": task_id,
                "method": method,
                "agent": trajectory.agent,
                "reward": trajectory.total_reward,
                KEEP_FIRST: opened,  # an earlier attempt goes before the task does
            },
        }
        check_sample(sample)
        return sample

    def _message(self, message: Message) -> Message:
        trained = message["role"] == "tool" and not self.config.mask_observation
        return {**message, "loss": True} if trained else message

    def _alpaca(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        opening, own = own_messages(trajectory)
        kept = [message for message in own if self.config.include_observation or message["role"] != "tool"]
        told = [opening[-1]["content"], *(m["content"] for m in opening[:-1] if m["role"] == "system")]
        system = self.config.system_prompt or "\n\n".join(told[1:])
        instruction = f"{system}\n\n{told[0]}" if system else told[0]
        return {
            "instruction": instruction,
            "input": "",
            "output": to_react([_answering(m) for m in kept], {"json": True}),
        }


def _answering(message: Message) -> Message:
    """An answer with the label that ReAct text has for it."""
    if message["role"] != "assistant" or message.get("tool_calls"):
        return message
    return {**message, "content": f"Final Answer: {message['content']}"}


def collect_and_convert(
    agent: Any,
    tasks: Sequence[Any],
    min_reward: float = MIN_REWARD,
    require_success: bool = True,
    *,
    collector: CollectorConfig | None = None,
    conversion: SFTConversionConfig | None = None,
) -> list[dict[str, Any]]:
    """Let `agent` act on `tasks`, keep what passes the filter, and convert it."""
    collected = TrajectoryCollector(agent, collector).collect(tasks)
    kept = TrajectoryFilter(min_reward, require_success).filter(collected)
    return TrajectoryToSFTConverter(conversion).convert(kept)
