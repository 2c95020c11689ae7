"""Figures of continual learning from a score matrix.

R[i][j] is the score on task j after training on i tasks; row 0 is the untouched model, T is the number of tasks, so R
is (T + 1, T). Scores are better where higher: a loss enters with its sign turned. Every figure is None where T or a
missing score leaves it undefined, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

Matrix = Sequence[Sequence[float]]


def average(scores: Matrix) -> float:
    """Mean over tasks of R[T][j]: the model at the end (Lopez-Paz and Ranzato, arXiv:1706.08840, equation 2)."""
    return mean(scores[-1])


def backward_transfer(scores: Matrix) -> float | None:
    """Mean over tasks but the last of R[T][j] - R[j][j], equation 3 there: negative where learning on has hurt."""
    changes = _changes(scores)
    return mean(changes) if changes else None


def backward_transfer_over_all(scores: Matrix) -> float | None:
    """The same sum over T instead of T - 1, as TRACE (arXiv:2310.06762) and its successors divide."""
    changes = _changes(scores)
    return sum(changes) / (len(changes) + 1) if changes else None


def forgetting(scores: Matrix) -> float | None:
    """Mean over tasks but the last of (best R[i][j] with j <= i < T) - R[T][j] (Chaudhry et al., arXiv:1801.10112).

    Not the negative of backward transfer: a task can improve after it was learnt before it is forgotten.
    """
    num = len(scores[0])
    if num < 2:
        return None
    return mean(max(scores[i][j] for i in range(j + 1, num)) - scores[num][j] for j in range(num - 1))


def forward_transfer(scores: Matrix) -> float | None:
    """Mean over tasks but the first of R[j - 1][j] - R[0][j]: what earlier tasks gave (arXiv:1706.08840, equation 4).

    R[j - 1][j] is the score right before training on task j; R[0][j] stands in for random initialisation.
    """
    num = len(scores[0])
    return mean(scores[j][j] - scores[0][j] for j in range(1, num)) if num > 1 else None


def learning_accuracy(scores: Matrix) -> float:
    """Mean of R[j][j]: each task right after it was learnt."""
    return mean(scores[j + 1][j] for j in range(len(scores[0])))


def anytime_average(scores: Matrix) -> float:
    """Mean over t of the mean score on the tasks learnt until then: how good the model was all along."""
    return mean(mean(scores[t][:t]) for t in range(1, len(scores)))


def figures(scores: Matrix) -> dict[str, float | None]:
    """All of the above by name."""
    return {
        "average": average(scores),
        "backward_transfer": backward_transfer(scores),
        "backward_transfer_over_all": backward_transfer_over_all(scores),
        "forgetting": forgetting(scores),
        "forward_transfer": forward_transfer(scores),
        "learning_accuracy": learning_accuracy(scores),
        "anytime_average": anytime_average(scores),
    }


def _changes(scores: Matrix) -> list[float]:
    """R[T][j] - R[j][j] of every task but the last."""
    return [scores[-1][j] - scores[j + 1][j] for j in range(len(scores[0]) - 1)]
