"""A conversation through a chat template: its text, its tokens, and which of them each assistant turn has to write.

The conversation is rendered and tokenised once, as a whole; the turns are found in that one tokenisation, by the
template's own `{% generation %}` markers where it has them, else by rendering the conversation up to each turn.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sagetune.sample import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML_TOOLS = files("sagetune").joinpath("templates/chatml_tools.jinja").read_text(encoding="utf-8")
CHATML_ADVICE = "pass model.chat_template=chatml"
GENERATION_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")

# Two exchanges, so that a template which rewrites earlier turns is found out as well.
PROBE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "probe_tool",
            "description": "Probe.",
            "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
        },
    }
]
PROBE_MESSAGES: list[Message] = [
    {"role": "system", "content": "probe system"},
    {"role": "user", "content": "probe user"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call00001",  # nine characters: some templates refuse any other length
                "type": "function",
                "function": {"name": "probe_tool", "arguments": {"probe_key": "probe value"}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "name": "probe_tool", "content": "probe observation"},
    {"role": "assistant", "content": "probe answer"},
    {"role": "user", "content": "probe user again"},
    {"role": "assistant", "content": "probe answer again"},
]


@dataclass(frozen=True, slots=True)
class Template:
    """What is known of a tokenizer and its chat template before any sample is seen.

    marked: it has `{% generation %}` markers. header: its generation prompt. turn_end: the special token that ends an
    assistant turn. control: matches any special token.
    """

    tokenizer: PreTrainedTokenizerBase
    marked: bool
    header: str
    turn_end: str
    turn_end_id: int
    control: re.Pattern[str]

    def render(self, messages: Sequence[Message], tools: list[dict[str, Any]], generation_prompt: bool = False) -> str:
        return render(self.tokenizer, messages, tools, generation_prompt)

    def refuse(self, reason: str) -> ValueError:
        owner = tokenizer_name(self.tokenizer)
        return ValueError(f"the chat template of {owner} {reason}, so its loss mask is unknown: {CHATML_ADVICE}")


def inspect(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Raise ValueError if the template of `tokenizer` does not show where an assistant turn starts and ends."""
    name = tokenizer_name(tokenizer)
    if not tokenizer.chat_template:
        raise ValueError(f"{name} has no chat template: {CHATML_ADVICE}")
    control = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")
    asked: list[Message] = [{"role": "user", "content": "probe user"}]
    prompt = render(tokenizer, asked, [], generation_prompt=True)
    header = prompt.removeprefix(render(tokenizer, asked, []))
    if not header or header == prompt:
        raise ValueError(f"the chat template of {name} has no generation prompt: {CHATML_ADVICE}")
    text = render(tokenizer, [*asked, {"role": "assistant", "content": "probe answer"}], [])
    turn_end = control.search(text, text.rfind("probe answer"))
    if "probe answer" not in text or turn_end is None:
        raise ValueError(f"the chat template of {name} ends an assistant turn with no special token: {CHATML_ADVICE}")
    turn_end_id = tokenizer.convert_tokens_to_ids(turn_end.group())
    marked = GENERATION_MARKER.search(tokenizer.get_chat_template()) is not None
    return Template(tokenizer, marked, header, turn_end.group(), turn_end_id, control)


def loss_weight(message: Message) -> float:
    """Weight of a message's tokens in the loss: of an assistant's 1 unless it says otherwise, of an observation 0."""
    if message["role"] == "assistant":
        return float(message.get("loss", True))
    return float(message.get("loss", False)) if message["role"] == "tool" and message["content"] else 0.0


def is_turn(message: Message) -> bool:
    """Whether `tokenize` gives the message a range: an assistant message, or an observation that is trained on."""
    return message["role"] == "assistant" or loss_weight(message) > 0


def tokenize(messages: list[Message], tools: list[dict[str, Any]], template: Template) -> tuple[list[int], list[range]]:
    """The tokens of the conversation, and the range of them of each turn that `is_turn`, in order.

    The range of an assistant message is what it has to write, that of an observation its content and its end of turn.
    """
    if template.marked and all(message["role"] == "assistant" for message in messages if is_turn(message)):
        input_ids, turns = _tokenize_marked(messages, tools, template)
        # Transformers stops marking at a turn whose first character the tokenizer drops.
        if len(turns) == sum(message["role"] == "assistant" for message in messages):
            return input_ids, turns
    text = template.render(messages, tools)
    spans = _spans_by_prefix(messages, tools, template, text)
    tokens = template.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in tokens["offset_mapping"]]
    # A token belongs to the span in which its last character lies.
    return tokens["input_ids"], [range(bisect_right(ends, start), bisect_right(ends, end)) for start, end in spans]


def _tokenize_marked(
    messages: list[Message], tools: list[dict[str, Any]], template: Template
) -> tuple[list[int], list[range]]:
    tokens = template.tokenizer.apply_chat_template(
        plain(messages),
        tools=tools or None,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    mask = [0, *tokens["assistant_masks"], 0]
    changes = [index for index in range(len(mask) - 1) if mask[index] != mask[index + 1]]
    return tokens["input_ids"], [range(*edges) for edges in zip(changes[::2], changes[1::2], strict=True)]


def _spans_by_prefix(
    messages: list[Message], tools: list[dict[str, Any]], template: Template, text: str
) -> list[tuple[int, int]]:
    """Character spans of the turns in `text`: an assistant's from its generation prompt to its end of turn.

    The turn is rendered as the last one too: a template that writes it differently there would train on text which the
    model is never asked to write.
    """
    spans = []
    for index, message in enumerate(messages):
        if not is_turn(message):
            continue
        as_last = template.render(messages[: index + 1], tools)
        if message["role"] == "tool":
            prompt = _until_observation(messages[: index + 1], tools, template, as_last)
        elif index:
            prompt = template.render(messages[:index], tools, generation_prompt=True)
        else:  # there is no conversation yet that a prompt could be rendered of
            prompt = as_last[: as_last.find(template.header) + len(template.header)]
        end = as_last.find(template.turn_end, len(prompt)) + len(template.turn_end)
        if not as_last.startswith(prompt) or end < len(prompt) or not text.startswith(as_last[:end]):
            raise template.refuse("writes a turn differently once others follow")
        spans.append((len(prompt), end))
    return spans


def _until_observation(messages: list[Message], tools: list[dict[str, Any]], template: Template, text: str) -> str:
    """The part of `text` before the content of its last message, an observation."""
    probe = "probe observation"  # where this stands, the content does: that may be a word of the header, too
    before = len(template.render(messages[:-1], tools))
    start = template.render([*messages[:-1], {**messages[-1], "content": probe}], tools).find(probe, before)
    if start < 0 or not text.startswith(messages[-1]["content"], start):
        raise template.refuse("does not write an observation as it is")
    return text[:start]


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as templates expect them.

    White space at the start of a reply goes: it would melt into one token with the newline of the header, which
    generation can never produce, since there the header comes first.
    """
    keys = ("role", "content", "tool_calls", "tool_call_id", "name")
    turns: list[dict[str, Any]] = [
        {key: value for key, value in message.items() if key in keys and (value or key == "content")}
        for message in messages
    ]
    return [turn | {"content": turn["content"].lstrip()} if turn["role"] == "assistant" else turn for turn in turns]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: list[dict[str, Any]],
    generation_prompt: bool = False,
) -> str:
    """The conversation as one text, ending in the assistant header if `generation_prompt`."""
    return tokenizer.apply_chat_template(
        plain(messages), tools=tools or None, add_generation_prompt=generation_prompt, tokenize=False
    )


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a message to a user calls `tokenizer`."""
    return repr(tokenizer.name_or_path or type(tokenizer).__name__)
