"""What is compared with what: each variant's baseline, the same test items, whole seeds, runs of other versions."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from comparison_runs import BASELINE, DORA, evidence_of, rewrite_config, start_run, tell, write_run
from sagetune.commands.entry import concluded
from sagetune.comparison import write_comparison
from sagetune.comparison.comparison import Comparison, compare
from sagetune.comparison.mirror import mirror
from sagetune.comparison.page import losses_of
from sagetune.comparison.terminal import print_comparison
from sagetune.comparison.wording import sentence, verdict
from sagetune.config import MethodInfo
from sagetune.runfolder import RunFolder

LORA_PLUS = MethodInfo(id="H_lora_plus", name="LoRA+")


def printed(found: Comparison) -> str:
    console = Console(file=StringIO(), width=200)
    print_comparison(console, found)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def write_swept(folder: Path, method: MethodInfo, seed: int, rank: int, loss: float) -> RunFolder:
    name = f"{method.label}-r{rank}-s{seed}"
    return write_run(folder, method, seed, name=name, loss=loss, lora_r=rank, use_dora=method.id == DORA.id)


# The same test items


@pytest.mark.parametrize(
    ("other", "key", "field"),
    [
        ({"right": [1, 1, 1, 0], "items": "b"}, "actions.exact_match", "items of actions"),
        ({"num_tokens": 299}, "tokens.loss", "items of tokens"),
        ({"capabilities": {"planning": [1, 1, 1]}}, "capability.planning", "items of planning"),
    ],
)
def test_runs_measured_on_other_items_get_no_verdict(
    tmp_path: Path, other: dict[str, Any], key: str, field: str
) -> None:
    """With seven seeds and the same path to the data: it can have changed since."""
    for seed in range(7):
        same = {"loss": 1 + seed / 100, "right": [1, 0, 0, 0], "capabilities": {"planning": [1, 0]}}
        write_run(tmp_path, BASELINE, seed, **same)
        write_run(tmp_path, LORA_PLUS, seed, **same | {"loss": 0.5})
        write_run(tmp_path, DORA, seed, **same | {"loss": 0.5} | other)
    found = compare(tmp_path)
    dora = evidence_of(found, "G_dora", key)
    assert verdict(dora) == "other items"
    assert ": no verdict, the two were not measured on the same test items" in sentence(dora)
    ranks = {v.evidence.variant: v.rank and v.rank.rank for v in found.verdicts if v.figure.key == key}
    assert ranks["G_dora"] is None
    assert sorted(rank for rank in ranks.values() if rank) in ([1, 1], [1, 2]), "the others are ranked without it"
    (row,) = found.disagreements
    assert (row["field"], row["what"]) == (field, "measuring")
    assert [names for _, names in row["values"]] == [["A_baseline", "H_lora_plus"], ["G_dora"]]
    assert verdict(evidence_of(found, "H_lora_plus", "tokens.loss")) == "better"


def test_a_figure_on_other_items_leaves_the_verdicts_on_the_rest(tmp_path: Path) -> None:
    for seed in range(6):
        write_run(tmp_path, BASELINE, seed, loss=1 + seed / 100, right=[1, 0])
        write_run(tmp_path, DORA, seed, loss=0.5, right=[1, 1], items="b")
    assert verdict(evidence_of(compare(tmp_path), "G_dora", "tokens.loss")) == "better"


def test_the_mean_of_other_capabilities_is_another_figure(tmp_path: Path) -> None:
    for seed in range(6):
        write_run(tmp_path, BASELINE, seed, capabilities={"planning": [1, 0], "timing": [0], "tool_use": [1, 0]})
        write_run(tmp_path, DORA, seed, capabilities={"planning": [1, 1], "tool_use": [1, 1]})
    found = compare(tmp_path)
    assert verdict(evidence_of(found, "G_dora", "capability.overall")) == "other items"
    assert verdict(evidence_of(found, "G_dora", "capability.planning")) == "constant"
    (row,) = found.disagreements
    assert row["field"] == "capabilities"
    assert row["values"] == [["planning, timing, tool_use", ["A_baseline"]], ["planning, tool_use", ["G_dora"]]]


# The baseline of each variant


def test_a_swept_setting_is_compared_with_the_baseline_of_the_same_setting(tmp_path: Path) -> None:
    for seed, (rank, base) in product(range(2), ((8, 1.0), (16, 2.0))):
        write_swept(tmp_path, BASELINE, seed, rank, base)
        write_swept(tmp_path, DORA, seed, rank, base - 0.1 - seed / 100)
    found = compare(tmp_path)
    for rank in (8, 16):
        loss = evidence_of(found, f"G_dora sft.lora_r={rank}", "tokens.loss")
        assert loss.baseline == f"A_baseline sft.lora_r={rank}"
        assert loss.difference is not None
        assert loss.difference.values == pytest.approx([-0.1, -0.11])
        assert loss.difference.p_holm == 1.0, "two comparisons of p = 0.5, with both baselines together"
    assert {variant.name: found.changes_of(variant) for variant in found.variants}["G_dora sft.lora_r=8"] == {
        "sft.use_dora": [False, True]
    }
    assert found.remedy is None
    page = write_comparison(tmp_path).read_text()
    assert "baseline of each variant: the one with the same settings" in page


def test_every_field_of_another_budget_counts(tmp_path: Path) -> None:
    """A folder that was used with two budgets, of which one method has had only the smaller."""
    for method, steps in ((BASELINE, 5), (BASELINE, 50), (DORA, 5)):
        folder = write_run(tmp_path, method, 0, name=f"{method.id}-{steps}", loss=steps)
        rewrite_config(folder, budget__max_steps=steps, budget__train_samples=10 * steps)
    found = compare(tmp_path)
    small, large = (f"A_baseline budget.max_steps={n} budget.train_samples={10 * n}" for n in (5, 50))
    assert found.baselines == {small: small, large: None, "G_dora": small}


def test_an_option_of_all_methods_leaves_them_their_baseline(tmp_path: Path) -> None:
    for method in (BASELINE, DORA):
        write_run(tmp_path, replace(method, mixture="own"), 0)
    assert compare(tmp_path).baselines == {"A_baseline+own": "A_baseline+own", "G_dora+own": "A_baseline+own"}


def test_with_and_without_an_option_each_comparison_changes_one_thing(tmp_path: Path) -> None:
    for method, mixture in product((BASELINE, DORA), ("", "own")):
        write_run(tmp_path, replace(method, mixture=mixture), 0, name=f"{method.id}{mixture}")
    write_run(tmp_path, replace(LORA_PLUS, mixture="other"), 0)
    found = compare(tmp_path)
    assert found.baselines == {
        "A_baseline": "A_baseline",
        "A_baseline+own": "A_baseline",
        "G_dora": "A_baseline",
        "G_dora+own": "A_baseline+own",
        "H_lora_plus+other": "A_baseline",
    }
    assert len(losses_of(found)) == 5, "each is drawn once"


def test_chosen_learning_rates_need_not_agree(tmp_path: Path) -> None:
    best = ((BASELINE, 8, 1e-3), (BASELINE, 16, 1e-2), (DORA, 8, 1e-2), (DORA, 16, 1e-3))
    for (method, rank, good), rate in product(best, (1e-3, 1e-2)):
        loss = 1.0 if rate == good else 2.0
        write_run(tmp_path, method, 0, name=f"{method.id}{rank}{rate}", lora_r=rank, learning_rate=rate, loss=loss)
    assert compare(tmp_path, select="tokens.loss").baselines == {
        name: f"A_baseline sft.learning_rate={rate} sft.lora_r={rank}"
        for rank, rate, other in ((8, 0.001, 0.01), (16, 0.01, 0.001))
        for name in (
            f"A_baseline sft.learning_rate={rate} sft.lora_r={rank}",
            f"G_dora sft.learning_rate={other} sft.lora_r={rank}",
        )
    }


def test_a_named_baseline_is_that_of_all(tmp_path: Path) -> None:
    for method, rank in product((BASELINE, DORA), (8, 16)):
        write_swept(tmp_path, method, 0, rank, 1.0)
    assert set(compare(tmp_path, "G_dora sft.lora_r=8").baselines.values()) == {"G_dora sft.lora_r=8"}


def test_the_terminal_says_what_to_do_without_a_baseline(tmp_path: Path) -> None:
    for rank in (8, 16):
        write_swept(tmp_path, BASELINE, 0, rank, 1.0)
    command = f"sagetune compare {tmp_path} baseline='A_baseline sft.lora_r=16'"
    told = printed(compare(tmp_path))
    assert "not compared: A_baseline sft.lora_r=16, A_baseline sft.lora_r=8; there is no A_baseline with" in told
    assert command in told
    page = write_comparison(tmp_path).read_text()
    assert "baseline=&lt;variant&gt; compares all with that one" in page
    assert str(tmp_path) not in page, "a page is the same wherever its folder lies"
    assert "not compared" not in printed(compare(tmp_path, "A_baseline sft.lora_r=8"))


# Seeds that only some have


def test_a_variant_without_all_seeds_has_no_rank_and_costs_nobody_theirs(tmp_path: Path) -> None:
    """Seed 2 is easy: DoRA has it alone, and is worse on it than the baseline."""
    for seed, loss in ((0, 2.0), (1, 2.1), (2, 1.0)):
        write_run(tmp_path, BASELINE, seed, loss=loss)
        write_run(tmp_path, LORA_PLUS, seed, loss=loss + 0.1)
    write_run(tmp_path, DORA, 2, loss=1.5)
    found = compare(tmp_path)
    ranks = {v.evidence.variant: v.rank for v in found.verdicts if v.figure.key == "tokens.loss"}
    assert ranks["G_dora"] is None
    assert [(r.rank, r.low, r.high) for r in ranks.values() if r is not None] == [(1, 1, 1), (2, 2, 2)]
    page = write_comparison(tmp_path).read_text()
    assert "Ranks go by the seeds that most variants have (0, 1, 2); G_dora lacks one of them and has no rank." in page


def test_a_value_that_is_not_finite_is_told(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, BASELINE, seed, loss=1.0 + seed / 10)
        write_run(tmp_path, DORA, seed, loss=float("nan") if seed == 1 else 0.9)
        write_run(tmp_path, LORA_PLUS, seed, loss=float("inf"))
    found = compare(tmp_path)
    assert "; seed 1 has no finite value and is left out" in sentence(evidence_of(found, "G_dora", "tokens.loss"))
    assert [(row["variant"], row["seeds"]) for row in found.not_finite] == [("G_dora", [1]), ("H_lora_plus", [0, 1, 2])]
    assert "loss, nats a token is not finite for H_lora_plus, seed 0, 1, 2: left out of the mean" in printed(found)
    assert "is not finite for G_dora, seed 1" in write_comparison(tmp_path).read_text()


# Jobs that were refused


def test_a_refused_job_takes_no_part_and_is_listed(tmp_path: Path) -> None:
    for method in (BASELINE, DORA):
        write_run(tmp_path, method, 0, use_dora=method is DORA)
    typo = start_run(tmp_path, DORA, 0, name="typo", use_dora=True)
    rewrite_config(typo, sft__lora_r=0, seed="${evaluation.folder}/7", evaluation__data="${evaluation.folder}/x")
    tell(typo, "failed", "sft.lora_r must be at least 1, got 0", "sagetune again", exit_code=2)
    found = compare(tmp_path)
    assert [variant.name for variant in found.variants] == ["A_baseline", "G_dora"]
    (cell,) = found.missing
    assert (cell["variant"], cell["status"], cell["run"]) == ("G_dora", "failed", "typo")
    assert "(typo): failed, sft.lora_r must be at least 1, got 0; sagetune again" in printed(found)


def test_a_job_that_trained_before_it_failed_is_a_cell_of_its_variant(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0)
    late = start_run(tmp_path, DORA, 0, lora_r=8)
    late.search.write_text("{}")
    tell(late, "failed", "budget.learning_rates must have a rate at which training does not diverge", exit_code=2)
    found = compare(tmp_path)
    assert [variant.name for variant in found.variants] == ["A_baseline", "G_dora"]
    assert [(cell["variant"], cell["run"]) for cell in found.missing] == [("G_dora", "G_dora-s0")]


def test_a_sweep_of_which_all_was_refused_has_a_report(tmp_path: Path) -> None:
    tell(start_run(tmp_path, DORA, 0), "failed", "sft.lora_r must be at least 1", exit_code=2)
    assert "sft.lora_r must be at least 1" in write_comparison(tmp_path).read_text()


# Runs of another version


def test_a_field_that_an_older_version_lacked_is_at_its_default(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, BASELINE, seed)
        write_run(tmp_path, DORA, seed, use_dora=True)
    old = write_run(tmp_path, BASELINE, 0, name="old", time="2025-01-01T10:00:00+00:00")
    rewrite_config(old, evaluation__how=None, grpo=None)
    found = compare(tmp_path)
    assert [variant.name for variant in found.variants] == ["A_baseline", "G_dora"]
    assert found.disagreements == []


def test_the_comparison_of_runs_of_a_newer_version_is_written_and_the_mirror_says_why_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    rewrite_config(write_run(tmp_path, BASELINE, 0), sft__of_tomorrow=1)
    write_comparison(tmp_path)
    mirror(tmp_path, compare(tmp_path))
    told = capsys.readouterr().err
    assert told.startswith("the comparison is written, and not mirrored to W&B: ")
    assert "is not a configuration of this version" in told
    assert "of_tomorrow" in told
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror(tmp_path, compare(tmp_path))
    assert capsys.readouterr().err == "", "who mirrors nothing misses nothing"


def test_what_a_sweep_cannot_be_concluded_for_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def conclude(sweep: Path) -> None:
        raise ValueError(f"{sweep} holds something else")

    assert [concluded("train", conclude, tmp_path, code) for code in (0, 130)] == [2, 130]
    assert f"sagetune train: the runs have ended, and cannot be concluded: {tmp_path} holds" in capsys.readouterr().err


# The search for a learning rate


def test_a_rate_found_at_the_edge_of_the_grid_is_told(tmp_path: Path) -> None:
    """DoRA in two of three seeds; the baseline in one, which the draw of a seed can do."""
    rising, falling, middle = (
        dict(zip((1e-3, 1e-2, 1e-1), losses, strict=True)) for losses in ((3, 2, 1), (1, 2, 3), (2, 1, 3))
    )
    for seed, (base, dora) in enumerate(((middle, rising), (falling, rising), (middle, middle))):
        write_run(tmp_path, BASELINE, seed, searched=base)
        write_run(tmp_path, DORA, seed, searched=dora)
        write_run(tmp_path, LORA_PLUS, seed, searched=falling)
    line = (
        "the best rate of budget.learning_rates is the lowest for H_lora_plus and the highest for G_dora: "
        "a rate beyond that edge may do better"
    )
    found = compare(tmp_path)
    assert found.search_edges == line
    assert line in printed(found).replace("\n", " ")
    assert line in write_comparison(tmp_path).read_text()
    assert compare(tmp_path, "G_dora").search_edges == line


def test_without_a_search_there_is_no_edge(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0)
    assert compare(tmp_path).search_edges is None


def test_other_texts_with_as_many_tokens_are_other_items(tmp_path: Path) -> None:
    write_run(tmp_path, BASELINE, 0, loss=1.0)
    folder = write_run(tmp_path, DORA, 0, loss=0.5)
    told = json.loads(folder.result.read_text())
    folder.result.write_text(json.dumps(told | {"data": {"eval": {"hash": "f"}}}))
    found = compare(tmp_path)
    assert verdict(evidence_of(found, "G_dora", "tokens.loss")) == "other items"
    assert [row["field"] for row in found.disagreements] == ["items of tokens.hash"]
