"""Sample -> (input_ids, labels): the one place of chat templates, loss masks and truncation.

The loss covers exactly what the model itself has to write: the content and the tool calls of an assistant message and
the token that ends its turn. Role headers, the newline after a turn, system and user messages carry none; a tool
message carries one only where it asks for it, to reproduce work that trained on observations.
A conversation is rendered and tokenised once, as a whole; the spans are found in that one tokenisation.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from sagetune.chat_template import (
    CHATML_ADVICE,
    CHATML_TOOLS,
    PROBE_MESSAGES,
    PROBE_TOOLS,
    Template,
    inspect,
    is_turn,
    loss_weight,
    plain,
    render,
    tokenize,
    tokenizer_name,
)
from sagetune.sample import KEEP_FIRST, Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample as tokens.

    input_ids, labels: equal lengths, labels IGNORE_INDEX where no loss falls, not shifted. weights: None where each
    supervised token weighs 1, else one weight a token, 0 where masked. dropped_messages: left out to fit.
    """

    sample_id: str
    task: str
    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class Unfit:
    """A sample that cannot train. `detail` is for people, `reason` for counting:

    too_long: even its last exchange exceeds the limit. unsupervised: no reply carries a loss. control_token: its text
    holds a special token, which would end or forge a turn. unwritable: the tokenizer drops characters of a reply.
    """

    sample_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class EncodingReport:
    """What became of the samples, by id: nothing is left out in silence."""

    num_samples: int
    truncated: list[str]
    unfit: list[Unfit]

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.num_samples} samples", f"{len(self.truncated)} shortened by whole exchanges"]
        reasons = Counter(unfit.reason for unfit in self.unfit)
        return ", ".join([*parts, *(f"{num} dropped ({reason})" for reason, num in reasons.items())])


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, chat_template: str = "auto") -> None:
    """Give `tokenizer` the template that `chat_template` asks for, and a pad token.

    own: the tokenizer's. chatml: CHATML_TOOLS. auto: the tokenizer's if it renders tools, calls and observations and
    leaves earlier turns as they are, else CHATML_TOOLS. Where CHATML_TOOLS is set, its end of turn becomes the
    tokenizer's eos token. Raises ValueError if the tokenizer lacks what the choice needs.
    """
    if chat_template not in ("auto", "own", "chatml"):
        raise ValueError(f"chat_template must be one of auto, own, chatml, got {chat_template!r}")
    if not tokenizer.is_fast:
        name = tokenizer_name(tokenizer)
        raise ValueError(f"{name} is a slow tokenizer, which gives no offsets: convert it to a tokenizer.json")
    if chat_template == "own":
        inspect(tokenizer)
    if chat_template == "chatml" or (chat_template == "auto" and not _serves_tools(tokenizer)):
        _set_chatml(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            f"{tokenizer_name(tokenizer)} has neither a pad nor an eos token: set one in its tokenizer_config.json"
        )


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an assistant turn: what the template writes there, and the tokenizer's eos token."""
    ids = [inspect(tokenizer).turn_end_id]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def prompt_ids(
    messages: Sequence[Message], tools: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """The tokens of `messages` up to and with the assistant header: what generation starts from.

    They are the first tokens of `encode`'s for the same messages plus a reply. Text that looks like a control token is
    encoded as plain text.
    """
    return tokenizer.apply_chat_template(
        plain(messages),
        tools=tools or None,
        add_generation_prompt=True,
        return_dict=False,
        sanitize_control_tokens=True,
        tokenizer_kwargs={"verbose": False},
    )


def encode(sample: Sample, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded | Unfit:
    """Tokens and labels of `sample`, at most `max_length` of them, or why it cannot train.

    Messages after the last supervised turn are left out, since nothing learns from them. Of a longer sample whole
    oldest exchanges (from a user message to the next) go; system messages, tools and the last exchange stay.
    Raises ValueError naming the template if its output cannot be masked exactly.
    """
    return _encode(sample, inspect(tokenizer), max_length)


def encode_all(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Encoded], EncodingReport]:
    """`encode` over `samples`, in their order, and what was shortened or left out."""
    template = inspect(tokenizer)
    results = [_encode(sample, template, max_length) for sample in samples]
    encoded = [result for result in results if isinstance(result, Encoded)]
    truncated = [result.sample_id for result in encoded if result.dropped_messages]
    return encoded, EncodingReport(len(samples), truncated, [r for r in results if isinstance(r, Unfit)])


def _encode(sample: Sample, template: Template, max_length: int) -> Encoded | Unfit:
    messages, tools = _until_last_supervised(sample["messages"]), sample["tools"]
    if not messages:
        return Unfit(sample["id"], "unsupervised", "no assistant message with a loss weight above 0")
    found = template.control.search(json.dumps([messages, tools], ensure_ascii=False))
    if found:
        return Unfit(sample["id"], "control_token", f"its text holds the tokenizer's control token {found.group()!r}")
    try:
        keep = int(sample["meta"].get(KEEP_FIRST, 0))
        kept, input_ids, turns = _fit(messages, tools, template, max_length, keep)
    except TemplateError as error:
        name = tokenizer_name(template.tokenizer)
        raise ValueError(
            f"sample {sample['id']}: the chat template of {name} refuses it ({error}): {CHATML_ADVICE}"
        ) from error
    if len(input_ids) > max_length:
        detail = f"{len(input_ids)} tokens even without older exchanges, the limit is {max_length}"
        return Unfit(sample["id"], "too_long", detail)
    replies = [message for message in kept if is_turn(message)]
    for text in _unwritten(replies, input_ids, turns, template):
        if _letters(text) not in _letters(template.render(kept, tools)):
            raise template.refuse(f"leaves out {text!r:.80} of sample {sample['id']}")
        return Unfit(sample["id"], "unwritable", f"the tokenizer has no tokens for some of {text!r:.80}")
    labels, weights = _label(replies, input_ids, turns)
    return Encoded(sample["id"], sample["task"], input_ids, labels, weights, len(messages) - len(kept))


def _until_last_supervised(messages: Sequence[Message]) -> list[Message]:
    supervised = [index for index, message in enumerate(messages) if loss_weight(message) > 0]
    return list(messages[: supervised[-1] + 1]) if supervised else []


def _fit(
    messages: list[Message], tools: list[dict[str, Any]], template: Template, max_length: int, keep: int
) -> tuple[list[Message], list[int], list[range]]:
    """The messages that stay, their tokens and the token range of each turn; too long if none can go."""
    input_ids, turns = tokenize(messages, tools, template)
    if len(input_ids) <= max_length:
        return messages, input_ids, turns
    shorter = _shorter(messages, keep)
    # Dropping more never makes it longer, so a binary search finds the most that fits in few renderings.
    first = bisect_left(shorter, True, key=lambda kept: len(tokenize(kept, tools, template)[0]) <= max_length)
    kept = shorter[min(first, len(shorter) - 1)]
    return kept, *tokenize(kept, tools, template)


def _shorter(messages: list[Message], keep: int) -> list[list[Message]]:
    """`messages` without its oldest exchange, without its two oldest, ..., down to the system part and the last one.

    keep: messages at the head that stay in any case.
    """
    roles = [message["role"] for message in messages]
    head = max(keep, next((index for index, role in enumerate(roles) if role != "system"), len(roles)))
    starts = [i for i in range(head + 1, len(roles)) if roles[i] == "user" and roles[i - 1] != "user"]
    return [messages[:head] + messages[start:] for start in starts] or [messages]


def _unwritten(replies: list[Message], input_ids: list[int], turns: list[range], template: Template) -> Iterator[str]:
    """Each text of a reply that the tokens of its turn do not read as. Raises ValueError if a turn has no end."""
    for reply, turn in zip(replies, turns, strict=True):
        if not turn or input_ids[turn[-1]] != template.turn_end_id:
            raise template.refuse("leaves the end of turn outside the turn")
        written = _letters(template.tokenizer.decode(input_ids[turn.start : turn.stop]))
        names = [call["function"]["name"] for call in reply.get("tool_calls", [])]
        for text in (reply["content"], *(json.dumps(name, ensure_ascii=False) for name in names)):
            if _letters(text) not in written:
                yield text


def _label(replies: list[Message], input_ids: list[int], turns: list[range]) -> tuple[list[int], list[float] | None]:
    labels = [IGNORE_INDEX] * len(input_ids)
    weights = [0.0] * len(input_ids)
    for reply, turn in zip(replies, turns, strict=True):
        weight = loss_weight(reply)
        for index in turn if weight > 0 else ():
            labels[index], weights[index] = input_ids[index], weight
    return labels, None if set(weights) <= {0.0, 1.0} else weights


def _serves_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if the tokenizer's own template renders tools, calls and observations, and can be masked exactly."""
    if not tokenizer.chat_template:
        return False
    probe: Sample = {
        "id": "probe",
        "messages": PROBE_MESSAGES,
        "tools": PROBE_TOOLS,
        "task": "",
        "source": "",
        "meta": {},
    }
    try:
        text = render(tokenizer, PROBE_MESSAGES, PROBE_TOOLS)
        encode(probe, tokenizer, len(text))
    except (TemplateError, ValueError) as reason:
        logger.info("the chat template of %s is replaced: %s", tokenizer_name(tokenizer), reason)
        return False
    return all(word in text for word in ("probe system", "probe_key", "probe value", "probe observation"))


def _set_chatml(tokenizer: PreTrainedTokenizerBase) -> None:
    vocabulary = tokenizer.get_vocab()
    for token in ("<|im_start|>", "<|im_end|>"):
        if token not in vocabulary or tokenizer.encode(token, add_special_tokens=False) != [vocabulary[token]]:
            raise ValueError(
                f"{tokenizer_name(tokenizer)} does not have {token} as one token, which the chatml template needs: "
                "choose a base model that has it, or model.chat_template=own with a template that renders tools"
            )
    tokenizer.chat_template = CHATML_TOOLS
    tokenizer.eos_token = "<|im_end|>"


def _letters(text: str) -> str:
    """`text` without white space and Unicode variants, which tokenizers may normalise."""
    return "".join(unicodedata.normalize("NFKC", text).split())
