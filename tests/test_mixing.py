"""Mixing tasks: stated proportions are met to the sample, nothing repeats before it must, and a run trains on them."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sage.libs.finetune.agent import MixerConfig, MultiTaskMixer, TaskSample
from sagetune.config import CONF_DIR, BudgetConfig, ContinualConfig, CoresetConfig, MixtureConfig, RunConfig
from sagetune.config.trajectories import TrajectoriesConfig
from sagetune.files import write_json
from sagetune.mixing import apportion, largest_total, mixed, parts_of
from sagetune.modules.sft import SFTModule
from sagetune.report import write_html
from sagetune.run import summarise
from sagetune.runfolder import RunFolder
from sagetune.trainer import AgentSFTTrainer

MakeRun = Callable[..., RunConfig]
REFERENCE = {"tool_selection": 0.35, "planning": 0.30, "timing": 0.20, "general": 0.15}
WEIGHTS = st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=6)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def rows(task: str, num: int) -> list[dict[str, Any]]:
    return [{"id": f"{task}{place}"} for place in range(num)]


def ids(samples: list[TaskSample]) -> list[str]:
    return [sample.data["id"] for sample in samples]


def drawn(sizes: dict[str, int], **options: Any) -> list[TaskSample]:
    """A mixture of data sets of these sizes; weights are the sizes unless they are given."""
    config = MixerConfig(options.pop("weights", {task: float(size) for task, size in sizes.items()}), **options)
    return MultiTaskMixer(config, tell=lambda _: None).mix({task: rows(task, size) for task, size in sizes.items()})


def test_the_references_example_runs() -> None:
    mixer = MultiTaskMixer(MixerConfig(task_weights=REFERENCE, strategy="weighted"))
    mixed_data = mixer.mix({task: rows(task, 200) for task in REFERENCE})
    dist = mixer.get_task_distribution(mixed_data)
    assert dist == {"tool_selection": 200, "planning": 171, "timing": 114, "general": 86}
    assert list(dist) == list(REFERENCE)
    assert (MixerConfig(REFERENCE).strategy, MixerConfig(REFERENCE).shuffle) == ("weighted", True)
    assert TaskSample("timing", {}) == TaskSample(task_type="timing", data={}, source=None)


@pytest.mark.parametrize(
    ("total", "parts"),
    [
        (1, [1, 0, 0, 0]),
        (10, [4, 3, 2, 1]),  # each rounded alone: 4 + 3 + 2 + 2 = 11
        (33, [11, 10, 7, 5]),  # 12 + 10 + 7 + 5 = 34; cut: 11 + 9 + 6 + 4 = 30
        (99, [34, 30, 20, 15]),
        (320, [112, 96, 64, 48]),
        (1001, [351, 300, 200, 150]),
    ],
)
def test_the_references_weights_are_met_where_rounding_and_cutting_fail(total: int, parts: list[int]) -> None:
    assert apportion(total, list(REFERENCE.values())) == parts
    mixture = drawn(dict.fromkeys(REFERENCE, 30), weights=REFERENCE, total=total)
    assert list(MultiTaskMixer(MixerConfig(REFERENCE)).get_task_distribution(mixture).values()) == parts


@given(WEIGHTS, st.integers(0, 5000))
def test_each_part_is_within_one_of_its_share(weights: list[float], total: int) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1 + 1e-6


@given(SIZES, st.data())
def test_without_a_total_nothing_repeats_and_no_more_is_to_be_had(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 20), min_size=len(sizes), max_size=len(sizes)))
    most = largest_total([float(weight) for weight in weights], sizes)
    parts = apportion(most, [float(weight) for weight in weights])
    assert all(part <= size for part, size in zip(parts, sizes, strict=True))
    more = most + 1
    assert any(more * weight > size * sum(weights) for weight, size in zip(weights, sizes, strict=True))


@settings(max_examples=50)
@given(SIZES, st.integers(1, 100), st.integers(0, 9), st.booleans())
def test_no_sample_comes_a_second_time_before_all_came_once(
    sizes: list[int], total: int, seed: int, shuffle: bool
) -> None:
    named = {f"t{number}-": size for number, size in enumerate(sizes)}
    options: dict[str, Any] = {"strategy": "equal", "total": total, "seed": seed, "shuffle": shuffle}
    mixture = drawn(named, **options)
    assert mixture == drawn(named, **options)
    for task, size in named.items():
        times = Counter(sample.data["id"] for sample in mixture if sample.task_type == task)
        num = times.total()
        assert set(times.values()) <= {num // size, num // size + 1}
        assert len(times) == min(num, size)


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_a_smaller_total_is_part_of_a_larger_one_in_its_order(first: int, second: int, replacement: bool) -> None:
    small, large = sorted((first, second))
    sizes, options = {"a": 40, "b": 20}, {"strategy": "equal", "replacement": replacement}
    rest = iter(ids(drawn(sizes, total=large, **options)))
    assert all(name in rest for name in ids(drawn(sizes, total=small, **options)))


def test_draws_are_uniform() -> None:
    size, num, repeats = 10, 4, 600
    counts: Counter[str] = Counter()
    firsts: Counter[str] = Counter()
    for seed in range(repeats):
        mixture = ids(drawn({"a": size, "b": 5}, weights={"a": 0.8, "b": 0.2}, total=5, seed=seed))
        counts.update(name for name in mixture if name.startswith("a"))
        firsts[mixture[0]] += 1
    expected = repeats * num / size
    # Draws of one mixture are distinct, which makes the statistic smaller by (size - num) / (size - 1).
    square = sum((counts[f"a{place}"] - expected) ** 2 / expected for place in range(size))
    assert square * (size - 1) / (size - num) < 27.9  # chi-square of 9 degrees, p = 0.001
    share = sum(count for name, count in firsts.items() if name.startswith("b")) / repeats
    assert abs(share - 0.2) < 0.055, "task b, a fifth of the mixture, comes first in a fifth of them"


def test_draws_with_replacement_are_uniform_and_repeat() -> None:
    counts = Counter(ids(drawn({"a": 10}, total=2000, replacement=True)))
    assert sum((counts[f"a{place}"] - 200) ** 2 / 200 for place in range(10)) < 27.9
    assert len(set(ids(drawn({"a": 50}, replacement=True)))) < 45


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"strategy": "proportional"}, [160, 40, 10]),
        ({"strategy": "proportional", "total": 21}, [16, 4, 1]),
        ({"strategy": "temperature", "temperature": 2.0, "total": 70}, [40, 20, 10]),
        ({"strategy": "temperature", "temperature": 1.0, "total": 21}, [16, 4, 1]),
        ({"strategy": "temperature", "temperature": 1e9, "total": 21}, [7, 7, 7]),
        ({"strategy": "equal"}, [10, 10, 10]),
        ({"strategy": "equal", "total": 60}, [20, 20, 20]),
        ({"strategy": "concat"}, [160, 40, 10]),
        ({"strategy": "concat", "total": 500}, [160, 40, 10]),
        ({"strategy": "concat", "total": 21}, [16, 4, 1]),
        ({"weights": {"a": 1, "b": 1, "c": 0}, "total": 10}, [5, 5, 0]),
    ],
)
def test_strategies(options: dict[str, Any], counts: list[int]) -> None:
    times = Counter(sample.task_type for sample in drawn({"a": 160, "b": 40, "c": 10}, **options))
    assert [times[task] for task in "abc"] == counts


def test_without_shuffling_tasks_and_samples_keep_their_order() -> None:
    mixture = drawn({"b": 2, "a": 3}, weights={"b": 0.5, "a": 0.5}, total=8, shuffle=False)
    assert ids(mixture)[:4] == ["b0", "b1", "b0", "b1"]
    assert ids(mixture)[4:7] == ["a0", "a1", "a2"]
    everything = drawn({"b": 2, "a": 3}, strategy="concat", shuffle=False)
    assert ids(everything) == ["b0", "b1", "a0", "a1", "a2"]


def test_a_shortage_is_told_with_its_epochs() -> None:
    mixer = MultiTaskMixer(MixerConfig({"a": 0.5, "b": 0.5}, total=12))
    with pytest.warns(UserWarning, match=r"a has 4 samples of the 6 that its share of 50\.0% asks for.*1\.50 times"):
        mixer.mix({"a": rows("a", 4), "b": rows("b", 9)})
    share = mixer.plan({"a": 4, "b": 9})["a"]
    assert (share.epochs, share.short, share.wanted) == (1.5, 2, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultiTaskMixer(MixerConfig({"a": 1}, total=4)).mix({"a": rows("a", 4)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task_weights": {}}, "task_weights must be a weight for each task"),
        ({"task_weights": {"a": 0, "b": 0.0}}, "one at least above 0, got {'a': 0, 'b': 0.0}"),
        ({"task_weights": {"a": -1.0, "b": 1}}, r"task_weights.a must be a number, at least 0 .*, got -1.0"),
        ({"task_weights": {"a": float("nan")}}, "task_weights.a must be a number"),
        ({"task_weights": {"a": 1}, "strategy": "best"}, "strategy must be one of weighted, proportional, .* 'best'"),
        ({"task_weights": {"a": 1}, "total": 0}, "total must be null or at least 1, got 0"),
        ({"task_weights": {"a": 1}, "temperature": 0.0}, "temperature must be a number above 0"),
        ({"task_weights": {"a": 1}, "strategy": "concat", "replacement": True}, "replacement must be false for concat"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixerConfig(**given)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        (
            {"a": rows("a", 1)},
            "task_datasets must be samples for each task of task_weights: b has none; .*got \\['a'\\]",
        ),
        ({"a": rows("a", 1), "b": []}, r"task_datasets\['b'\] must be at least one sample"),
        ({task: rows(task, 1) for task in "abc"}, r"task must be one of task_weights \(a, b\).*got 'c'"),
        ({"a": [TaskSample("b", {})], "b": rows("b", 1)}, r"task_datasets\['a'\]\[0\].task_type must be 'a', got 'b'"),
    ],
)
def test_a_mistake_in_the_data_sets_is_named(datasets: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskMixer(MixerConfig({"a": 0.5, "b": 0.5})).mix(datasets)


# In a run


def of_file(name: str) -> MixtureConfig:
    """What a file of conf/mixture or conf/method says."""
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / f"{name}.yaml"))
    return MixtureConfig(**file["mixture"])


def mixing(make_run: MakeRun, mixture: MixtureConfig, num: int | None = 40, **given: Any) -> RunConfig:
    run = make_run(**{"budget": BudgetConfig(train_samples=num, eval_samples=4), "batch_size": 4} | given)
    run.mixture = mixture
    run.__post_init__()
    return run


def served_tasks(monkeypatch: pytest.MonkeyPatch, run: RunConfig) -> tuple[Counter[str], RunFolder]:
    """The tasks of all rows that the training steps of a run get."""
    tasks: Counter[str] = Counter()
    step, trainer, pool = SFTModule.training_step, AgentSFTTrainer(run), []

    def watch(module: SFTModule, batch: Any, index: int) -> Any:
        task_of = {sample["id"]: sample["task"] for sample in pool}
        tasks.update(task_of[module.sample_ids[place]] for place in batch["sample_index"].tolist())
        return step(module, batch, index)

    read = trainer.data.pool

    def keep(*given: Any) -> Any:
        found = read(*given)
        pool.extend(found.samples)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SFTModule, "training_step", watch)
        patch.setattr(trainer.data, "pool", keep)
        return tasks, RunFolder(Path(trainer.train().run_dir))


@pytest.mark.parametrize(
    ("name", "eta", "expected"),
    [
        ("method/agenttuning", 0.2, {"tool_selection": 3, "planning": 3, "timing": 2, "general": 32}),
        ("mixture/agenttuning_eta", 0.5, {"tool_selection": 8, "planning": 7, "timing": 5, "general": 20}),
        ("mixture/four_tasks", None, {"tool_selection": 14, "planning": 12, "timing": 8, "general": 6}),
    ],
)
def test_the_steps_get_the_stated_proportions(
    name: str, eta: float | None, expected: dict[str, int], make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = of_file(name)
    mixture.eta = eta
    tasks, folder = served_tasks(monkeypatch, mixing(make_run, mixture, num_epochs=2))
    assert tasks == {task: 2 * num for task, num in expected.items()}
    told = json.loads(folder.mixture.read_text())
    assert {task: source["used"] for task, source in told["sources"].items()} == expected
    assert sum(source["share"] for source in told["sources"].values()) == pytest.approx(1)


def test_the_baseline_keeps_the_proportions_of_its_data(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, folder = served_tasks(monkeypatch, mixing(make_run, MixtureConfig()))
    assert tasks == {"tool_selection": 14, "planning": 12, "timing": 8, "general": 6}
    assert not folder.mixture.exists()


def test_a_mixture_of_one_task_is_its_data(make_run: MakeRun) -> None:
    reference = "agent_benchmark:timing:train"
    alone = MixtureConfig(use=True, weights={"timing": 1.0}, sources={"timing": reference})
    pools = [
        AgentSFTTrainer(run).data.pool()
        for run in (mixing(make_run, alone), mixing(make_run, MixtureConfig(), train_data=reference))
    ]
    assert pools[0].samples == pools[1].samples


def test_a_smaller_budget_takes_the_first_samples_of_a_larger(make_run: MakeRun) -> None:
    few, many = (
        {
            sample["id"]
            for sample in AgentSFTTrainer(mixing(make_run, of_file("mixture/four_tasks"), num)).data.pool().samples
        }
        for num in (20, 40)
    )
    assert few < many


def short(make_run: MakeRun, num: int | None = 20, **options: Any) -> RunConfig:
    """Half of the mixture from a task that has four samples."""
    sources = {task: f"agent_benchmark:{task}:train" for task in ("timing", "general")}
    mixture = MixtureConfig(
        **{"use": True, "weights": {"timing": 0.5, "general": 0.5}, "sources": sources, "limits": {"timing": 4}}
        | options
    )
    return mixing(make_run, mixture, num)


def test_a_task_with_too_few_samples_repeats_them_and_is_told(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = AgentSFTTrainer(short(make_run))
    pool = trainer.data.pool()
    assert len({sample["id"] for sample in pool.samples}) == len(pool.encoded) == 20
    texts = Counter(json.dumps(sample["messages"]) for sample in pool.samples if sample["task"] == "timing")
    assert sorted(texts.values()) == [2, 2, 3, 3]
    assert trainer.data.mixture is not None
    timing = trainer.data.mixture["sources"]["timing"]
    assert (timing["size"], timing["drawn"], timing["distinct"]) == (4, 10, 4)
    assert (timing["epochs"], timing["short"]) == (2.5, 6)
    assert "timing has 4 samples of the 10" in capsys.readouterr().err


def test_without_a_budget_files_are_mixed_as_far_as_they_go(make_run: MakeRun) -> None:
    run = short(make_run, None, limits={"timing": 4, "general": 30})
    assert AgentSFTTrainer(run).data.pool().tasks().keys() == {"timing", "general"}
    samples, figures = mixed(run, AgentSFTTrainer(run).data._read(parts_of(run))[0], print)
    assert len(samples) == 8
    assert figures["sources"]["general"]["epochs"] == 4 / 30


def test_mixing_goes_with_a_coreset_and_with_a_stream(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = short(make_run)
    run.sft.use_coreset_selection, run.sft.coreset_strategy, run.sft.coreset_target_size = True, "length", 6
    run.coreset = CoresetConfig(cache=False)
    tasks, _ = served_tasks(monkeypatch, run)
    assert tasks.total() == 6
    stream = mixing(make_run, of_file("mixture/four_tasks"), use_online_continual=True)
    stream.data.stream = "sequential"
    tasks, _ = served_tasks(monkeypatch, stream)
    assert tasks == {"tool_selection": 14, "planning": 12, "timing": 8, "general": 6}


def test_the_result_and_the_report_tell_the_mixture(make_run: MakeRun) -> None:
    trainer = AgentSFTTrainer(short(make_run))
    result = trainer.train()
    folder = RunFolder(Path(result.run_dir))
    measured = trainer.measure("after") | {"data": trainer.data.counts}
    summary = summarise(trainer.run, folder, measured, result.to_dict(), json.loads(json.dumps(measured)))
    write_json(folder.result, summary)
    assert summary["mixture"]["sources"]["timing"]["short"] == 6
    assert summary["costs"]["mix"] > 0
    page = write_html(folder.path).read_text()
    for shown in ("<h2>Mixture</h2>", "trained on a mixture", "share of the mixture", "agent_benchmark:timing:train"):
        assert shown in page


def test_the_methods_file_says_what_agenttuning_is() -> None:
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "method" / "agenttuning.yaml"))
    assert file["method"] == {
        **{"id": "F_agenttuning", "name": "AgentTuning", "description": "Multi-task training"},
        "source": "arXiv:2310.12823",
    }
    shares = of_file("method/agenttuning").shares()
    assert shares["general"] == pytest.approx(0.8)
    assert shares["tool_selection"] / shares["planning"] == pytest.approx(0.35 / 0.30)
    assert of_file("mixture/four_tasks").shares() == REFERENCE


def test_what_cannot_be_mixed_is_told(make_run: MakeRun) -> None:
    run = short(make_run)
    for field, value, message in (
        ("trajectories", TrajectoriesConfig(use=True), "trajectories.use must be false while mixture.use"),
        ("continual", ContinualConfig(tasks=["timing", "general"]), "continual.tasks must be null while mixture.use"),
    ):
        wrong = short(make_run)
        setattr(wrong, field, value)
        with pytest.raises(ValueError, match=message):
            wrong.__post_init__()
    run.mixture.strategy = "temperature"
    with pytest.raises(ValueError, match=r"sizes of the sources.*general.*\+mixture\.limits\.general"):
        AgentSFTTrainer(run)


def test_a_strategy_that_goes_by_no_weights_leaves_no_eta_unheard() -> None:
    sources = {"timing": "a.jsonl", "general": "b.jsonl"}
    given: Any = {"use": True, "weights": dict.fromkeys(sources, 1.0), "sources": sources, "eta": 0.2}
    assert MixtureConfig(**given).shares() == {"timing": 0.2, "general": 0.8}
    with pytest.raises(ValueError, match=r"mixture\.eta must be null for equal, which goes by no weights, got 0\.2"):
        MixtureConfig(**given, strategy="equal")
