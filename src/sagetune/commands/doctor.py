"""`sagetune doctor`: look at data as the model will see it. Exit code 0 = sound, 1 = something found, 2 = refused."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sagetune.commands.entry import USAGE_ERROR, run_command
from sagetune.config import AgentSFTConfig, BudgetConfig, DataConfig, EvaluationConfig, ModelConfig, Problems

if TYPE_CHECKING:
    from rich.console import Console

    from sagetune.chat import Encoded, EncodingReport, Unfit
    from sagetune.inspection import Bin, Finding
    from sagetune.sample import Sample

FINDINGS_SHOWN = 5


@dataclass(kw_only=True)
class DoctorConfig:
    """What to look at: the fields of a run that decide what the model sees, and how much of it to show."""

    sft: AgentSFTConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Not looked at; here because the options of data= set it."""
    show: int = 3
    """Samples whose text is printed with its supervised tokens marked."""
    html: str | None = None
    """File that receives the same as one self-contained page."""
    against: str | None = None
    """Evaluation file (.json, .jsonl, .csv) whose questions should not be trained on."""
    drop: list[str] = field(default_factory=list)
    """Kinds of findings whose samples are left out of `output`."""
    output: str | None = None
    """File (.jsonl) that receives the samples as they are read, without those of `drop`."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.check(self.show >= 0, "show", self.show, "at least 0")
        folder = Path(self.html or ".").parent
        problems.check(folder.is_dir(), "html", self.html, "a path in an existing folder")
        against, output = Path(self.against or "."), Path(self.output or ".jsonl")
        problems.check(self.against is None or against.is_file(), "against", self.against, "an existing file")
        right = output.parent.is_dir() and output.name.endswith(".jsonl")
        problems.check(right, "output", self.output, "a path in an existing folder that ends in .jsonl")
        problems.check(not self.drop or self.output is not None, "drop", self.drop, "empty unless output is set")
        problems.report()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that is shown."""

    reference: str
    summary: str
    bins: list[Bin]
    findings: list[Finding]
    samples: list[tuple[str, list[tuple[str, bool]]]]
    kept: list[Sample]
    """What `output` receives."""


def main() -> None:
    """Run `sagetune doctor` on the process's arguments and exit."""
    run_command("doctor", DoctorConfig, doctor)


def doctor(config: DoctorConfig) -> int:
    """Print the diagnosis of `sft.train_data` and return 1 if it has faults or samples that cannot train, else 0."""
    from sagetune.sources import check_reference

    try:
        check_reference(config.sft.train_data)
        diagnosis = diagnose(config)
    except ValueError as error:
        print(f"sagetune doctor: {error}", file=sys.stderr)
        return USAGE_ERROR

    from rich.console import Console

    show(diagnosis, Console())
    if config.html is not None:
        Path(config.html).write_text(to_html(diagnosis), encoding="utf-8")
        print(f"written: {config.html}")
    if config.output is not None:
        _write_samples(Path(config.output), diagnosis.kept)
        print(f"written: {config.output}, {len(diagnosis.kept)} samples")
    from sagetune import fireact_doctor, inspection

    notes = inspection.NOTES | fireact_doctor.NOTES
    return int(any(finding.kind not in notes for finding in diagnosis.findings))


def diagnose(config: DoctorConfig) -> Diagnosis:
    """Read, encode and inspect the training data. Raises ValueError for data or a model that cannot be read."""
    from sagetune import fireact_doctor, inspection
    from sagetune.chat import encode_all
    from sagetune.models import load_tokenizer
    from sagetune.preferences import holds_pairs
    from sagetune.sources import load

    sft, data = config.sft, config.data
    if not set(config.drop) <= set(_meanings()):
        raise ValueError(f"drop must name kinds of findings, {', '.join(_meanings())}; got {', '.join(config.drop)}")
    if holds_pairs(sft.train_data):
        return _diagnose_pairs(config)
    evaluated = fireact_doctor.questions(Path(config.against)) if config.against is not None else None
    loaded = load(sft.train_data, num_samples=config.budget.train_samples, seed=data.seed, on_error=data.on_error)
    tokenizer = load_tokenizer(sft.base_model, config.model)
    encoded, report = encode_all(loaded.samples, tokenizer, sft.max_seq_length)
    of_runs = fireact_doctor.find(loaded.samples, evaluated)
    findings = inspection.find(loaded.samples) + of_runs + _of_encoding(report)
    findings += [inspection.Finding("skipped", "", line) for line in loaded.skipped]
    shown = [(sample.sample_id, inspection.segments(sample, tokenizer)) for sample in encoded[: config.show]]
    bins = inspection.length_histogram(encoded)
    dropped = {finding.sample_id for finding in findings if finding.kind in config.drop}
    kept = [sample for sample in loaded.samples if sample["id"] not in dropped]
    runs = fireact_doctor.summary(loaded.samples, of_runs)
    summary = "\n".join(line for line in (_summary(encoded, report), runs) if line)
    return Diagnosis(sft.train_data, summary, bins, findings, shown, kept)


def _diagnose_pairs(config: DoctorConfig) -> Diagnosis:
    """`diagnose` for pairs of a better and a worse conversation, each side shown as a sample."""
    from sagetune import inspection, pair_doctor
    from sagetune.chat import encode_all
    from sagetune.models import load_tokenizer
    from sagetune.preferences import encode_pairs, load_pairs

    sft, data = config.sft, config.data
    for name in ("against", "output"):
        if vars(config)[name] is not None:
            raise ValueError(f"{name} is for conversations, and {sft.train_data} has pairs: leave it out")
    loaded = load_pairs(sft.train_data, num_pairs=config.budget.train_samples, on_error=data.on_error)
    tokenizer = load_tokenizer(sft.base_model, config.model)
    sides = [side for pair in loaded.pairs for side in (pair.chosen, pair.rejected)]
    _, report = encode_all(sides, tokenizer, sft.max_seq_length)
    cut = [_too_long(name) for name in report.truncated]
    whole = dataclasses.replace(report, truncated=[], unfit=report.unfit + cut)
    encoded, _ = encode_pairs(loaded.pairs, tokenizer, sft.max_seq_length)
    findings = pair_doctor.find(loaded.pairs) + _of_encoding(whole)
    findings += [inspection.Finding("skipped", "", line) for line in loaded.skipped]
    shown = [(side.sample_id, inspection.segments(side, tokenizer)) for side in encoded[: 2 * config.show]]
    summary = "\n".join(line for line in (_summary(encoded, whole), pair_doctor.summary(encoded)) if line)
    return Diagnosis(sft.train_data, summary, inspection.length_histogram(encoded), findings, shown, [])


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Print `diagnosis`; supervised text is bold green, or between ⟦ and ⟧ where there is no colour."""
    from rich.text import Text

    for sample_id, runs in diagnosis.samples:
        console.rule(Text(sample_id))
        text = Text()
        for part, supervised in runs:
            plain = supervised and console.color_system is None
            text.append(f"⟦{part}⟧" if plain else part, style="bold green" if supervised else "dim")
        console.print(text, soft_wrap=True)
    console.rule(Text(diagnosis.reference))
    console.print(diagnosis.summary, markup=False, highlight=False, soft_wrap=True)
    most = max((bin_.num_samples for bin_ in diagnosis.bins), default=1)
    for bin_ in diagnosis.bins:
        bar = "█" * round(40 * bin_.num_samples / most)
        console.print(f"{bin_.low:6d} to {bin_.high - 1:6d} tokens {bin_.num_samples:6d} {bar}", highlight=False)
    _show_findings(diagnosis.findings, console)


def to_html(diagnosis: Diagnosis) -> str:
    """One self-contained page; all text of the data is escaped."""
    from jinja2 import Environment

    template = files("sagetune").joinpath("templates/doctor.html.jinja").read_text(encoding="utf-8")
    most = max((bin_.num_samples for bin_ in diagnosis.bins), default=1)
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    return page.render(
        reference=diagnosis.reference,
        summary=diagnosis.summary,
        bins=diagnosis.bins,
        findings=diagnosis.findings,
        samples=diagnosis.samples,
        most=most,
    )


def _of_encoding(report: EncodingReport) -> list[Finding]:
    from sagetune.inspection import Finding

    cut = [Finding("truncated", sample_id, "") for sample_id in report.truncated]
    return cut + [Finding(unfit.reason, unfit.sample_id, unfit.detail) for unfit in report.unfit]


def _too_long(name: str) -> Unfit:
    from sagetune.chat import Unfit

    return Unfit(name, "too_long", "a pair is not shortened: its sides would no longer answer to one prompt")


def _summary(encoded: list[Encoded], report: EncodingReport) -> str:
    from sagetune.inspection import num_supervised

    lengths = sorted(len(sample.input_ids) for sample in encoded)
    if not lengths:
        return f"{report.summary()}; nothing to train on"
    supervised = sum(num_supervised(sample) for sample in encoded)
    return (
        f"{report.summary()}; tokens: {sum(lengths)}, median {lengths[len(lengths) // 2]}, longest {lengths[-1]}; "
        f"supervised: {supervised} ({supervised / sum(lengths):.1%})"
    )


def _show_findings(findings: list[Finding], console: Console) -> None:
    from sagetune.fireact_doctor import REMEDIES

    counts = Counter(finding.kind for finding in findings)
    for kind, num in counts.items():
        console.print(f"{kind}: {num}  {_meanings()[kind]}", markup=False, highlight=False, style="bold")
        for finding in [f for f in findings if f.kind == kind][:FINDINGS_SHOWN]:
            console.print(f"  {finding.sample_id} {finding.detail}", markup=False, highlight=False, soft_wrap=True)
        if num > FINDINGS_SHOWN:
            console.print(f"  and {num - FINDINGS_SHOWN} more", style="dim")
        if kind in REMEDIES:
            console.print(f"  remedy: {REMEDIES[kind]}", markup=False, highlight=False, soft_wrap=True)
    if not findings:
        console.print("no findings", style="green")


def _meanings() -> dict[str, str]:
    from sagetune import fireact_doctor, inspection, pair_doctor

    return inspection.MEANINGS | fireact_doctor.FAULTS | fireact_doctor.NOTES | pair_doctor.FAULTS


def _write_samples(path: Path, samples: list[Sample]) -> None:
    import json

    from sagetune.formats import to_openai

    rows = [json.dumps(to_openai(sample), ensure_ascii=False) for sample in samples]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
