"""Prompts and the answers to choose from -> how likely the model holds each answer to be.

An answer is what follows `chat.prompt_ids`: its own tokens, encoded apart from the prompt, and the end of turn. The
model is thus asked for exactly what it would have to write, token by token, after exactly the prompt that generation
starts from; no token spans the border. For text without blanks around it these are the tokens that training sees
(templates trim the blanks). Text in an answer that looks like a control token is encoded as plain text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sagetune.attention import padded_attention
from sagetune.batching import collate, to_device
from sagetune.chat import IGNORE_INDEX, Encoded, stop_token_ids
from sagetune.generation.tree import Walk, num_common, shares_prefixes
from sagetune.losses import token_losses


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """Log-likelihoods of one answer, given its prompt, in nats; all include the end of turn."""

    log_likelihood: float
    """Of the answer as a whole: the sum over its tokens."""
    per_token: float
    per_character: float
    per_byte: float
    """Divided by the tokens with the end of turn, and by the characters and UTF-8 bytes of the text."""
    greedy: bool
    """Whether the model, decoding greedily, writes this answer and ends."""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: list[int]
    answer: list[int]


Scored = tuple[int, list[float], bool]
"""The place of a row, the log-likelihood of each token of its answer, whether each of them is the likeliest."""


@torch.no_grad()
def score_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[str]],
    *,
    batch_size: int = 16,
    on_result: Callable[[int, list[ChoiceScore]], None] | None = None,
) -> list[list[ChoiceScore]]:
    """The scores of the answers `choices[i]` to the prompt `prompts[i]`, in their order.

    prompts: tokens as `prompt_ids` makes them. A model that `shares_prefixes` computes each common beginning, that of
    prompts as well as that of the answers to one, once; others take padded batches of batch_size answers. In float32
    the scores are those of one answer at a time up to rounding. model: a causal language model or a PeftModel around
    one; its training mode and attention are put back. on_result receives a prompt's place and scores when all its
    answers are scored; the order is the tokens', not that of `prompts`.
    Raises ValueError for an empty prompt, a prompt without answers, an answer without text, and prompt learning.
    """
    _check(model, prompts, choices)
    end = stop_token_ids(tokenizer)[0]  # the template's end of turn; also fills up batches, where no token looks at it
    places = [(place, number) for place, texts in enumerate(choices) for number in range(len(texts))]
    rows = [_Row(list(prompts[p]), [*answer_ids(choices[p][n], tokenizer), end]) for p, n in places]
    scores: list[dict[int, ChoiceScore]] = [{} for _ in prompts]
    was_training = model.training
    model.eval()
    try:
        with padded_attention(model):
            found = _by_walk(model, rows) if shares_prefixes(model) else _by_batches(model, rows, batch_size, end)
            for row, likelihoods, greedy in found:
                place, number = places[row]
                scores[place][number] = _score(choices[place][number], likelihoods, greedy)
                if on_result is not None and len(scores[place]) == len(choices[place]):
                    on_result(place, _in_order(scores[place]))
    finally:
        model.train(was_training)
    return [_in_order(one) for one in scores]


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of an answer, without its end of turn."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def _check(model: PreTrainedModel, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[str]]) -> None:
    if len(prompts) != len(choices):
        raise ValueError(f"score_choices: {len(prompts)} prompts but choices for {len(choices)}")
    if not all(prompts):
        raise ValueError("score_choices: a prompt has no token, so nothing predicts the first one of an answer")
    if not all(choices) or not all(text for texts in choices for text in texts):
        raise ValueError("score_choices: every prompt needs answers, and every answer text")
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise ValueError("score_choices: prompt learning moves the tokens by its virtual ones, which is not supported")


def _in_order(scores: dict[int, ChoiceScore]) -> list[ChoiceScore]:
    return [scores[number] for number in range(len(scores))]


def _score(text: str, likelihoods: list[float], greedy: bool) -> ChoiceScore:
    total = sum(likelihoods)
    return ChoiceScore(
        log_likelihood=total,
        per_token=total / len(likelihoods),
        per_character=total / len(text),
        per_byte=total / len(text.encode()),
        greedy=greedy,
        num_tokens=len(likelihoods),
    )


def _by_walk(model: PreTrainedModel, rows: Sequence[_Row]) -> Iterator[Scored]:
    """Through the tree of all prompts and answers; the last token of an answer is predicted, so it need not be run."""
    order = sorted(range(len(rows)), key=lambda row: rows[row].prompt + rows[row].answer[:-1])
    sequences = [rows[row].prompt + rows[row].answer[:-1] for row in order]
    shared = [0, *(num_common(one, other) for one, other in pairwise(sequences))]
    asking: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for number, row in enumerate(order):
        for token in range(len(rows[row].answer)):
            position = len(rows[row].prompt) - 1 + token
            asking[_first_with(shared, number, position), position].append((row, token))
    wanted: list[list[int]] = [[] for _ in sequences]
    for number, position in sorted(asking):
        wanted[number].append(position)
    found: list[dict[int, tuple[float, bool]]] = [{} for _ in rows]
    for piece in Walk(model).run(sequences, wanted):
        asked = [(index, row, token) for index, node in enumerate(piece.asked) for row, token in asking[node]]
        targets = torch.tensor([rows[row].answer[token] for _, row, token in asked], dtype=torch.int64)
        likelihoods, likeliest = _look_up(piece.logits, [index for index, _, _ in asked], targets)
        for (_, row, token), likelihood, right in zip(asked, likelihoods, likeliest, strict=True):
            found[row][token] = likelihood, right
            if len(found[row]) == len(rows[row].answer):
                tokens = [found[row][token] for token in range(len(found[row]))]
                yield row, [likelihood for likelihood, _ in tokens], all(right for _, right in tokens)


def _first_with(shared: Sequence[int], number: int, position: int) -> int:
    """The sequence that runs the token at `position` of sequence `number`; shared: tokens with the one before each."""
    while shared[number] > position:
        number -= 1
    return number


def _look_up(logits: torch.Tensor, which: list[int], targets: torch.Tensor) -> tuple[list[float], list[bool]]:
    """Of logits (n, V): the log-likelihood of each target at its row of `which`, and whether it is the likeliest."""
    scores = logits.float()
    where, targets = torch.tensor(which, dtype=torch.int64, device=scores.device), targets.to(scores.device)
    likelihoods = scores[where, targets] - scores.logsumexp(-1)[where]
    return likelihoods.tolist(), (scores.argmax(-1)[where] == targets).tolist()


def _by_batches(model: PreTrainedModel, rows: Sequence[_Row], batch_size: int, pad_token_id: int) -> Iterator[Scored]:
    device = next(model.parameters()).device
    samples = [
        Encoded("", "", row.prompt + row.answer, [IGNORE_INDEX] * len(row.prompt) + row.answer, None, 0) for row in rows
    ]
    order = sorted(range(len(rows)), key=lambda row: -len(samples[row].input_ids))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        losses = token_losses(model, to_device(collate(samples, places, pad_token_id), device))
        sizes = [len(rows[row].answer) for row in places]
        for row, nll, correct in zip(places, losses.nll.split(sizes), losses.correct.split(sizes), strict=True):
            yield row, (-nll).tolist(), bool(correct.all())
