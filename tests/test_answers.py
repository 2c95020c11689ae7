"""Short answers are scored as FireAct scored its released runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sagetune.evaluation.answers import exact_match, f1, normalized, yes_no_match

TRAJS = Path(__file__).parents[1].parent / "shared/data/fireact/trajs"


def test_normalisation() -> None:
    assert normalized(" The  U.S. Navy's\nbest, a ship ") == "us navys best ship"
    assert normalized("theatre an") == "theatre"


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("the cat sat", "Cat", 2 * 0.5 * 1 / 1.5),
        ("yes, it is", "yes", 0.0),
        ("yes", "Yes!", 1.0),
        ("no", "no answer", 0.0),
        ("", "x", 0.0),
        ("a b b", "b b c", 0.8),
    ],
)
def test_f1(answer: str, gold: str, expected: float) -> None:
    assert f1(answer, gold) == pytest.approx(expected)


def test_yes_and_no() -> None:
    assert yes_no_match("Yes, it is.", True)
    assert yes_no_match("no", False)
    assert not yes_no_match("It is, yes", True)
    assert not yes_no_match("Yes", False)


@pytest.mark.skipif(not TRAJS.is_dir(), reason=f"FireAct's released runs are not at {TRAJS}")
def test_the_released_runs_score_as_recorded() -> None:
    matches = []
    for path in sorted(TRAJS.glob("*.json")):
        runs = list(json.loads(path.read_text()).values())
        assert [exact_match(run["pred"], run["gt"]) for run in runs] == [run["em"] for run in runs]
        assert [f1(run["pred"], run["gt"]) for run in runs] == pytest.approx([run["f1"] for run in runs], abs=1e-12)
        matches.append((sum(exact_match(run["pred"], run["gt"]) for run in runs), len(runs)))
    assert matches == [(200, 465), (172, 499), (131, 500)]
