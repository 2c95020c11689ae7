"""The one record that flows through the pipeline, and its checks.

In memory a sample is a plain dict (:class:`Sample`): OpenAI chat messages, the offered tools, and where it comes from.
Content is always a string ("" where there is none) and tool arguments are always decoded dicts; the JSON-string forms
of files and APIs are decoded in :mod:`sagetune.formats`, and nowhere else.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

KEEP_FIRST = "keep_first"
"""Key of `meta`: how many messages at the head stay when a sample is shortened, beside the system's. Default 0."""
ROLES = ("system", "user", "assistant", "tool")


class FunctionCall(TypedDict):
    """The called function: its name and its decoded arguments."""

    name: str
    arguments: dict[str, Any]


class ToolCall(TypedDict):
    """One call of an assistant message; `id` pairs it with the tool message that answers it."""

    id: str
    type: str
    function: FunctionCall


class Message(TypedDict):
    """One chat message.

    `loss` weighs it in training. Of an assistant message: absent or True = 1, False or 0 = masked. Of a tool message:
    absent = masked, True or a weight = the observation is trained on, too. It has no meaning for other roles.
    """

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    loss: NotRequired[bool | float]


class Sample(TypedDict):
    """One conversation.

    id: unique inside its source. messages: in order. tools: OpenAI function tools
    (`{"type": "function", "function": {"name", "description", "parameters"}}`). task: capability or task family, "" if
    unknown. source: where it was read. meta: anything else, never rendered; KEEP_FIRST there is heeded.
    """

    id: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    task: str
    source: str
    meta: dict[str, Any]


def check_sample(sample: Sample) -> None:
    """Raise ValueError naming the field and the reason if `sample` breaks the contract of :class:`Sample`."""
    if not sample["messages"]:
        raise ValueError("messages: is empty, a sample needs at least one assistant message")
    for index, tool in enumerate(sample["tools"]):
        check_tool(f"tools[{index}]", tool)
    for index, message in enumerate(sample["messages"]):
        _check_message(f"messages[{index}]", message)
    if not any(message["role"] == "assistant" for message in sample["messages"]):
        raise ValueError("messages: has no assistant message, so nothing could be learnt from it")


def check_tool(field: str, tool: dict[str, Any]) -> None:
    """Raise ValueError if `tool`, which stands in `field`, is not an OpenAI function tool."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError(f"{field}: expected {{'type': 'function', 'function': {{'name': ...}}}}, got {tool!r:.120}")
    if not isinstance(function.get("parameters", {}), dict):
        raise ValueError(
            f"{field}.function.parameters: expected a JSON schema object, got {function['parameters']!r:.80}"
        )


def _check_message(field: str, message: Message) -> None:
    if message.get("role") not in ROLES:
        raise ValueError(f"{field}.role: must be one of {ROLES}, got {message.get('role')!r:.80}")
    if not isinstance(message.get("content"), str):
        raise ValueError(f"{field}.content: expected a string, got {message.get('content')!r:.80}")
    calls = message.get("tool_calls", [])
    if calls and message["role"] != "assistant":
        raise ValueError(f"{field}.tool_calls: only an assistant message can call tools, role is {message['role']!r}")
    if message["role"] == "assistant" and not calls and not message["content"]:
        raise ValueError(f"{field}: an assistant message needs content or tool_calls, both are empty")
    for index, call in enumerate(calls):
        _check_call(f"{field}.tool_calls[{index}]", call)
    weight = message.get("loss", True)
    if not isinstance(weight, (bool, int, float)) or weight < 0:
        raise ValueError(f"{field}.loss: expected true, false or a weight >= 0, got {weight!r:.80}")


def _check_call(field: str, call: ToolCall) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError(f"{field}.function.name: expected a function name, got {call!r:.120}")
    if not isinstance(function.get("arguments"), dict):
        raise ValueError(f"{field}.function.arguments: expected an object, got {function.get('arguments')!r:.80}")
