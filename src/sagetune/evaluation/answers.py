"""A short answer against the gold answer, as FireAct scores HotpotQA, Bamboogle and StrategyQA.

Source: SQuAD's and HotpotQA's evaluation scripts, which FireAct (arXiv:2310.05915) takes over. The three released runs
give 200 of 465, 172 of 499 and 131 of 500 exact matches, and every F1 that they record.
"""

from __future__ import annotations

import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ALL_OR_NOTHING = ("yes", "no", "noanswer")


def normalized(answer: str) -> str:
    """`answer` in lower case without punctuation, articles and superfluous white space."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> bool:
    """True if both are the same after normalisation."""
    return normalized(answer) == normalized(gold)


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall over the words. yes, no and noanswer match wholly or not at all."""
    given, wanted = normalized(answer), normalized(gold)
    if given != wanted and (given in ALL_OR_NOTHING or wanted in ALL_OR_NOTHING):
        return 0.0
    words, gold_words = given.split(), wanted.split()
    num_same = (Counter(words) & Counter(gold_words)).total()
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(words), num_same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def yes_no_match(answer: str, gold: bool) -> bool:
    """StrategyQA: the answer begins with the gold word, in whatever case."""
    return answer.lower().startswith("yes" if gold else "no")
