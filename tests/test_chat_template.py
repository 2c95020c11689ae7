"""Our template writes tools whole and short; any other is taken only if it serves tools and can be masked exactly."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from sagetune.chat import encode, prepare_tokenizer, prompt_ids
from sagetune.chat_template import CHATML_TOOLS
from test_chat import LONG, TOKENIZERS, UNMARKED_TEMPLATE, clone, reply, sample, user


def test_the_template_writes_every_keyword_of_a_schema() -> None:
    tokenizer = TOKENIZERS["embedded:tiny"]
    person = {"type": "object", "properties": {"name": {"type": "string", "description": "Full"}}, "required": ["name"]}
    properties = {
        "who": {"type": "array", "items": person, "minItems": 1},
        "n": {"type": ["integer", "null"], "minimum": 1, "default": 2},
        "kinds": {"type": "array", "items": {"enum": ["a", 1]}},
        "u": {"anyOf": [{"type": "string", "format": "date"}, person]},
        "items": {},
        "ref": {"$ref": "#/x"},
        "free": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    function = {"name": "f", "parameters": {"type": "object", "properties": properties, "x": 1}, "returns": "int"}
    got = tokenizer.apply_chat_template([user("")], tools=[{"type": "function", "function": function}], tokenize=False)
    assert got.split("\n")[2:5] == [
        '- f(who?: {name: string}[] (minItems 1), n?: integer|null (minimum 1, default 2), kinds?: ("a"|1)[], '
        'u?: string (date)|{name: string}, items?: any, ref?: any ($ref "#/x"), '
        'free?: object (additionalProperties {"type": "string"})) (x 1) (returns "int")',
        "  who[].name: Full",
        "  u.name: Full",
    ]


def test_our_template_adds_no_system_prompt_and_no_tools_where_there_are_none() -> None:
    for tokenizer in TOKENIZERS.values():
        text = tokenizer.decode(prompt_ids([user("hi")], [], tokenizer))  # type: ignore[list-item]
        assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


SMOLLM2_OWN = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAST_TURN_DIFFERS = SMOLLM2_OWN.replace("message['content']", "('<think>' if loop.last else '') + message['content']")


def test_auto_keeps_a_template_that_serves_tools_and_replaces_any_other() -> None:
    tokenizer = TOKENIZERS["embedded:smollm2_135m"]
    serving = UNMARKED_TEMPLATE.replace("# Tools", "# My tools")
    refusing = "{{ raise_exception('no tools here') }}"
    chosen = {serving: serving, SMOLLM2_OWN: CHATML_TOOLS, LAST_TURN_DIFFERS: CHATML_TOOLS, refusing: CHATML_TOOLS}
    for own, expected in chosen.items():
        copied = clone(tokenizer, own)
        prepare_tokenizer(copied, "auto")
        assert copied.chat_template == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: pass model.chat_template=chatml"),
        (SMOLLM2_OWN.split("{% if")[0], "has no generation prompt"),
        (SMOLLM2_OWN.replace("<|im_end|>", "."), "ends an assistant turn with no special token"),
    ],
)
def test_a_template_of_its_own_must_show_where_turns_start_and_end(template: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_tokenizer(clone(TOKENIZERS["embedded:tiny"], template), "own")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LAST_TURN_DIFFERS, "writes a turn differently once others follow"),
        (SMOLLM2_OWN.replace("message['content']", "message['content'][:1]"), "ends an assistant turn|leaves out"),
        (
            CHATML_TOOLS.replace("{%- endgeneration -%}", "").replace(
                "{{- '<|im_end|>' -}}", "{%- endgeneration -%}{{- '<|im_end|>' -}}"
            ),
            "end of turn",
        ),
    ],
)
def test_a_template_that_cannot_be_masked_exactly_is_refused_by_name(template: str, message: str) -> None:
    tokenizer = clone(TOKENIZERS["embedded:tiny"], template)
    with pytest.raises(ValueError, match=rf"the chat template of '\w+' .*({message}).*model.chat_template=chatml"):
        encode(sample(user("abc"), reply("def"), user("abc"), reply("def")), tokenizer, LONG)


def test_chatml_needs_its_tokens() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(vocab={"a": 0}, merges=[])), eos_token="a")
    with pytest.raises(ValueError, match=r"does not have <\|im_start\|> as one token.*model.chat_template=own"):
        prepare_tokenizer(bare, "chatml")


def test_an_unknown_choice_of_template_is_refused() -> None:
    with pytest.raises(ValueError, match="chat_template must be one of auto, own, chatml, got 'jinja'"):
        prepare_tokenizer(TOKENIZERS["embedded:tiny"], "jinja")
