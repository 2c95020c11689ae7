"""What the agent sees: the conversation, with the words of its prompting method around it.

None of these words is kept in a trajectory: a model that is trained on it is to act so unasked. react: Yao et al. 2023
(arXiv:2210.03629); cot: Wei et al. 2022 (arXiv:2201.11903); reflexion: Shinn et al. 2023 (arXiv:2303.11366), in
FireAct's form (arXiv:2310.05915) with a look back after a fixed number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from sagetune.sample import Message
from sagetune.trajectories.episode import Episode

THINK = "Before each tool call write one short thought: what you know and what you need next. Then make the call."
WORDS = {
    "react": THINK,
    "cot": "Before your first tool call think the whole task through, step by step. Then make the calls one by one, "
    "without further thoughts.",
    "reflexion": THINK + " Where something went wrong, first say what, and what you will do about it.",
    "plain": "",
}
AFTER_STEPS = (
    "You have taken {num} steps and the task is not solved. Say in one sentence how to go on better, then go on."
)


def view(episode: Episode, reflect_after: int | None = None) -> list[Message]:
    """The episode's conversation as the agent gets it. reflect_after: steps after which reflexion looks back."""
    shown, start = episode.conversation, episode.own_from
    if episode.method == "reflexion" and reflect_after is not None:
        place = _after(shown, start, reflect_after)
        if place is not None:
            shown.insert(place, {"role": "user", "content": AFTER_STEPS.format(num=reflect_after)})
    own = shown[0]["content"] if shown[0]["role"] == "system" else None
    parts = [own, episode.system_prompt, WORDS[episode.method]]
    told = "\n\n".join(part for part in parts if part)
    head: list[Message] = [{"role": "system", "content": told}] if told else []
    return [*head, *(shown[1:] if own is not None else shown)]


def _after(messages: Sequence[Message], start: int, turns: int) -> int | None:
    """The place behind the observations of the agent's message number `turns` from `start`; None if there is none."""
    places = [place for place in range(start, len(messages)) if messages[place]["role"] == "assistant"]
    if len(places) < turns:
        return None
    place = places[turns - 1] + 1
    while place < len(messages) and messages[place]["role"] == "tool":
        place += 1
    return place
