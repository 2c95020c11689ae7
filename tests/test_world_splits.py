"""The tool world as data: splits share nothing, samples are unique, deterministic, short, and unambiguous."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from sagetune.world import FAMILIES, SPLITS, audit, baselines, generate, task_of, tasks
from sagetune.world.domains import DOMAIN_OF, DOMAINS, TOOLS, tools_in
from sagetune.world.phrasing import FRAMES, expand
from sagetune.world.planning import SKILLS
from sagetune.world.tools import complete_templates, could_mean, schema_of
from sagetune.world.values import CLOSED, KINDS, pool

SOURCES = Path(__file__).parents[1] / "src"
DIGEST = """
import hashlib, json
from sagetune.world import FAMILIES, SPLITS, generate
samples = [generate(family, split, 12, 5) for family in FAMILIES for split in SPLITS]
print(hashlib.sha256(json.dumps(samples).encode()).hexdigest())
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_share_no_request_no_8_gram_no_entity_and_no_held_out_tool(family: str) -> None:
    found = audit({split: tasks(family, split, 1500) for split in SPLITS})
    clean = {"texts": 0, "ngrams": 0, "entities": 0, "tools": 0}
    assert found == {"train/dev": clean, "train/test": clean, "dev/test": clean}


def test_the_audit_finds_what_is_planted() -> None:
    train = tasks("planning", "train", 30)
    leaks = audit({"train": train, "test": train[:10]})["train/test"]
    assert leaks["texts"] == 10
    assert leaks["ngrams"] > 0
    assert leaks["entities"] > 0


def test_pools_of_two_splits_are_disjoint_but_for_closed_vocabularies() -> None:
    for kind in KINDS:
        values = [set(pool(kind, split)) for split in SPLITS]
        assert all(len(part) >= 3 for part in values) or kind in CLOSED
        assert kind in CLOSED or not (values[0] & values[1] | values[0] & values[2] | values[1] & values[2]), kind


def test_templates_and_frames_are_disjoint() -> None:
    for phrased in (*TOOLS.values(), *SKILLS):
        texts = [{template.text for template in expand(phrased.phrases(split))} for split in SPLITS]
        assert not (texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]), phrased.name
    worded = [{frame for frame in FRAMES[split] if frame[0]} for split in SPLITS]
    assert not (worded[0] & worded[1] | worded[0] & worded[2] | worded[1] & worded[2])


def test_the_world_is_as_large_as_promised() -> None:
    assert len(DOMAINS) >= 8
    assert all(4 <= len(domain.tools) <= 8 for domain in DOMAINS.values())
    for tool in tools_in("train"):
        assert len(complete_templates(tool, "train")) >= 6, tool.name
        assert len(complete_templates(tool, "dev")) >= 3, tool.name
        assert len(complete_templates(tool, "test")) >= 3, tool.name


def test_a_quarter_of_the_dev_and_test_selections_need_a_tool_that_train_never_shows() -> None:
    shown = {name for family in FAMILIES for task in tasks(family, "train", 500) for name in task.tools}
    for split in ("dev", "test"):
        unseen = [task for task in tasks("tool_selection", split, 400) if task.unseen_tool]
        assert len(unseen) == 100
        assert not shown & {name for task in unseen for name in task.called}


def test_every_phrasing_means_its_tool_and_no_other_tool_that_can_be_offered() -> None:
    for split in SPLITS:
        for tool in tools_in(split):
            objects = DOMAIN_OF[tool.name].objects
            for template in complete_templates(tool, split):
                assert could_mean(tool, objects, template.carrier), (tool.name, template.text)
    for task in tasks("tool_selection", "test", 600):
        others = [name for name in task.tools if name != task.called[0]]
        assert 2 <= len(others) <= 4
        assert any(DOMAIN_OF[name] is DOMAIN_OF[task.called[0]] for name in others)


def test_every_argument_stands_in_the_request() -> None:
    for split in SPLITS:
        for task in tasks("tool_selection", split, 600):
            assert all(str(value) in task.user for value in task.values.values()), task.id
            assert set(task.values) >= set(TOOLS[task.called[0]].required)
            assert list(task.values) == [name for name in TOOLS[task.called[0]].kinds if name in task.values]


def test_20_000_training_requests_are_all_different() -> None:
    assert len({task.user for task in tasks("tool_selection", "train", 20_000)}) == 20_000


def test_a_sample_does_not_depend_on_how_many_are_made() -> None:
    for family in FAMILIES:
        assert generate(family, "train", 30, seed=4)[:7] == generate(family, "train", 7, seed=4)
        assert generate(family, "train", 7, seed=4) != generate(family, "train", 7, seed=5)


@pytest.mark.parametrize("salt", ["1", "2"])
def test_samples_are_the_same_in_every_process(salt: str) -> None:
    samples = [generate(family, split, 12, 5) for family in FAMILIES for split in SPLITS]
    here = hashlib.sha256(json.dumps(samples).encode()).hexdigest()
    environment = {"PYTHONHASHSEED": salt, "PYTHONPATH": str(SOURCES)}
    there = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_the_world_does_not_import_torch() -> None:
    code = "import sys, sagetune.world; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCES)}, check=True)


def test_requests_and_tools_stay_short() -> None:
    for family in FAMILIES:
        words = [len(task.user.split()) for task in tasks(family, "train", 300)]
        assert median(words) <= 35
        assert max(words) <= 60
    for tool in TOOLS.values():
        function = schema_of(tool)["function"]
        assert len(function["description"].split()) <= 8
        assert 1 <= len(function["parameters"]["properties"]) <= 4


def test_timing_kinds_are_balanced() -> None:
    kinds = [task.kind for task in tasks("timing", "dev", 40)]
    assert {kind: kinds.count(kind) for kind in kinds} == {"call": 10, "ask": 10, "answer": 10, "no_tool": 10}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_reports_chance_and_a_trivial_baseline_far_from_perfect(family: str) -> None:
    found = baselines(family, "test", 120)
    assert 0 <= found["chance"] < 0.4
    assert 0 <= found["trivial"] < 0.5
    if family == "tool_selection":
        sizes = [len(task.tools) for task in tasks(family, "test", 120)]
        assert found["chance"] == pytest.approx(sum(1 / size for size in sizes) / len(sizes))


def test_bad_names_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"family must be one of .*tool_selection.*got 'tools'"):
        generate("tools", "train", 1)
    with pytest.raises(ValueError, match="split must be one of"):
        generate("timing", "valid", 1)
    with pytest.raises(ValueError, match="num must be >= 0"):
        generate("timing", "train", -1)
    sample = generate("timing", "train", 1)[0]
    sample["source"] = "file"
    with pytest.raises(ValueError, match="source must be 'world'"):
        task_of(sample)
