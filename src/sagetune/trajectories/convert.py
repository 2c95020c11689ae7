"""TrajectoryToSFTConverter: a trajectory -> a record to train on. The reference's class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sagetune.config.trajectories import MIN_REWARD, CollectorConfig, SFTConversionConfig
from sagetune.sample import Message, check_sample
from sagetune.trajectories.collector import TrajectoryCollector
from sagetune.trajectories.filter import TrajectoryFilter
from sagetune.trajectories.record import FINISH, AgentTrajectory, messages_of


class TrajectoryToSFTConverter:
    """Turns trajectories into records that `sft.train_data` reads.

    chatml: a sample: the instruction, one assistant message a turn (thought, and tool calls), observations as tool
    messages without a loss. alpaca: {"instruction", "input", "output"} with the turns as ReAct text in `output`.
    """

    def __init__(self, config: SFTConversionConfig | None = None) -> None:
        self.config = config or SFTConversionConfig()

    def convert(self, trajectories: Sequence[AgentTrajectory]) -> list[dict[str, Any]]:
        """One record a trajectory, in order. Raises ValueError for a trajectory without a step."""
        return [self.convert_single(trajectory) for trajectory in trajectories]

    def convert_single(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        if not trajectory.steps:
            raise ValueError(f"trajectory {trajectory.task_id!r} has no step, so nothing can be learnt from it")
        return self._alpaca(trajectory) if self.config.format == "alpaca" else self._chat(trajectory)

    def _chat(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        messages = [self._message(message) for message in messages_of(trajectory)]
        if not self.config.include_observation:
            messages = [message for message in messages if message["role"] != "tool"]
        if self.config.system_prompt is not None:
            messages = [message for message in messages if message["role"] != "system"]
            messages.insert(0, {"role": "system", "content": self.config.system_prompt})
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
            },
        }
        check_sample(sample)
        return sample

    def _message(self, message: Message) -> Message:
        trained = message["role"] == "tool" and not self.config.mask_observation
        return {**message, "loss": True} if trained else message

    def _alpaca(self, trajectory: AgentTrajectory) -> dict[str, Any]:
        prompt = self.config.system_prompt
        lines = []
        for step in trajectory.steps:
            if step.thought:
                lines.append(f"Thought: {step.thought}")
            answer = step.action_input.get("answer") if step.action == FINISH else None
            lines.append(f"Action: {step.action}[{answer if answer is not None else json.dumps(step.action_input)}]")
            if self.config.include_observation and step.observation:
                lines.append(f"Observation: {step.observation}")
        instruction = f"{prompt}\n\n{trajectory.instruction}" if prompt else trajectory.instruction
        return {"instruction": instruction, "input": "", "output": "\n".join(lines)}


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
