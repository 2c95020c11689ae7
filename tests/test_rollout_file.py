"""rollouts.jsonl: a run that goes on keeps what was done and makes the rest again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagetune.rollouts.record import RolloutFile
from sagetune.trajectories.record import AgentTrajectory, load_trajectories, to_line


@pytest.mark.parametrize("cut", ["", '{"task_id": "\u00e9'])
def test_a_file_of_rollouts_is_rewound_whatever_was_said_and_wherever_it_was_cut(cut: str, tmp_path: Path) -> None:
    """U+2028 and U+0085 end a line for str.splitlines, and a kill can leave half a character."""
    said = [{"role": "assistant", "content": "one\u2028two\u0085three"}]
    lines = [
        to_line(AgentTrajectory(f"t{update}", "", [], messages=said, figures={"update": update}))  # type: ignore[arg-type]
        for update in (1, 2, 3)
    ]
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes("".join([*lines, cut]).encode()[: -1 if cut else None])
    RolloutFile(path).rewind(2)
    assert path.read_text(encoding="utf-8") == "".join(lines[:2])
    assert [one.messages for one in load_trajectories(path)] == [said, said]
