"""Collecting trajectories: who acts on what, how, which of it is kept, and what it is turned into. FireAct's stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from sagetune.config.checks import Problems

AGENTS = ("expert", "local", "endpoint")
PROMPTING_METHODS = ("react", "cot", "reflexion", "plain")
SPREADS = ("all", "one")
CONVERSION_FORMATS = ("chatml", "alpaca")
MIN_REWARD = 0.5


@dataclass(kw_only=True)
class AgentConfig:
    """Who acts."""

    kind: str = "expert"
    """expert = the tasks' known solutions, with an error rate; local = a Transformers model; endpoint = a server that
    speaks OpenAI's chat completions."""
    error_rate: float = 0.0
    """Chance that the expert gets a step wrong."""
    model: str | None = None
    """Of the local agent: a base model or a folder that a run saved, None = sft.base_model. Of the endpoint: its name
    there."""
    base_url: str | None = None
    """Address of the endpoint, such as http://localhost:8000/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key; it is never written anywhere."""
    temperature: float = 0.0
    """Of the model's answers; 0 = the likeliest token. Attempts differ only above 0."""
    max_new_tokens: int = 128
    """Longest answer."""

    @property
    def label(self) -> str:
        """What the agent is called in its trajectories."""
        if self.kind == "expert":
            return f"expert, error rate {self.error_rate:g}" if self.error_rate else "expert"
        return f"{self.kind} {self.model or 'base model'}"

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("trajectories.agent.kind", self.kind, AGENTS)
        rate = self.error_rate
        problems.check(0 <= rate <= 1, "trajectories.agent.error_rate", rate, "in [0, 1]")
        problems.check(self.temperature >= 0, "trajectories.agent.temperature", self.temperature, "at least 0")
        problems.check(self.max_new_tokens >= 1, "trajectories.agent.max_new_tokens", self.max_new_tokens, "at least 1")
        if self.kind == "endpoint":
            problems.check(bool(self.base_url), "trajectories.agent.base_url", self.base_url, "the server's address")
            problems.check(bool(self.model), "trajectories.agent.model", self.model, "the model's name at the server")
        problems.report()


@dataclass
class CollectorConfig:
    """How attempts are made: the reference's fields, then ours."""

    max_steps: int = 10
    """Messages of the agent in one attempt at most."""
    require_success: bool = True
    """Return successful trajectories only; the file holds all."""
    save_intermediate: bool = True
    """Keep observations; False leaves them empty in what is returned. The file has them: a later attempt needs them."""
    methods: list[str] = field(default_factory=lambda: ["react"])
    """Prompting methods: react = a thought before each call; cot = all the thinking before the first call; reflexion =
    react, and after a failed attempt, or after reflect_after steps, what went wrong; plain = nothing is said about
    thinking, as a trained agent is used."""
    spread: str = "all"
    """all = every task by every method; one = every task by one of them, in turn."""
    attempts: int = 1
    """Attempts of a method at a task. Those of reflexion, two at least, follow one another and stop at a success."""
    reflect_after: int = 5
    """Steps after which reflexion looks back (FireAct: 5)."""
    seed: int = 0
    num_workers: int = 16
    """Attempts that run at once."""
    step_timeout: float = 600.0
    """Seconds for one answer. Longer than an endpoint's own retries take, whose failure is not the agent's."""
    task_timeout: float = 3600.0
    """Seconds for one attempt."""
    bad_replies: int = 2
    """Answers that cannot be run and are asked for again, in one attempt. A model at temperature 0, which would say the
    same again, is not asked."""
    max_observation: int = 4000
    """Characters of an observation that the agent sees; the rest is replaced by a mark."""
    system_prompt: str | None = None
    """What the agent is told before its method's words; not part of the trajectory."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("max_steps", "attempts", "reflect_after", "num_workers", "max_observation"):
            problems.check(vars(self)[name] >= 1, f"trajectories.collector.{name}", vars(self)[name], "at least 1")
        for name in ("step_timeout", "task_timeout"):
            problems.check(vars(self)[name] > 0, f"trajectories.collector.{name}", vars(self)[name], "above 0")
        problems.check(self.bad_replies >= 0, "trajectories.collector.bad_replies", self.bad_replies, "at least 0")
        problems.one_of("trajectories.collector.spread", self.spread, SPREADS)
        known = bool(self.methods) and len(set(self.methods)) == len(self.methods)
        known = known and set(self.methods) <= set(PROMPTING_METHODS)
        allowed = f"some of {', '.join(PROMPTING_METHODS)}, each once"
        problems.check(known, "trajectories.collector.methods", self.methods, allowed)
        problems.report()


@dataclass(kw_only=True)
class FilterConfig:
    """Which trajectories become training data."""

    min_reward: float = MIN_REWARD
    require_success: bool = True
    max_steps: int | None = None
    """Steps at most."""
    max_repeats: int | None = None
    """How often one and the same action may be taken in a trajectory."""
    max_refused: int | None = None
    """Calls that a tool refused at most."""
    shortest: int | None = None
    """Trajectories of a task and method at most, the shortest."""

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("max_steps", "max_repeats", "shortest"):
            value = vars(self)[name]
            problems.check(value is None or value >= 1, f"trajectories.filter.{name}", value, "null or at least 1")
        refused = self.max_refused
        problems.check(
            refused is None or refused >= 0, "trajectories.filter.max_refused", refused, "null or at least 0"
        )
        problems.report()


@dataclass
class SFTConversionConfig:
    """What a trajectory is turned into: the reference's fields, then ours."""

    format: str = "chatml"
    """chatml = messages and tools; alpaca = instruction and one output of ReAct text."""
    include_observation: bool = True
    """Keep observations in it."""
    system_prompt: str | None = None
    """System message in place of the trajectory's own."""
    mask_observation: bool = True
    """No loss on observations. False trains on them, as FireAct's release does. Alpaca's output has no mask."""

    def __post_init__(self) -> None:
        problems = Problems()
        problems.one_of("trajectories.conversion.format", self.format, CONVERSION_FORMATS)
        problems.report()


@dataclass(kw_only=True)
class TrajectoriesConfig:
    """FireAct's stage of a run: its training tasks are acted on, and the good trajectories are trained on."""

    use: bool = False
    """Collect; False trains on the data as it is."""
    tasks: str | None = None
    """What is acted on: search:<path> (a file of recorded FireAct runs), bfcl:<folder> (BFCL's multi-turn tasks), or
    None = the tasks of sft.train_data, which must be of the embedded world."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    collector: CollectorConfig = field(default_factory=CollectorConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    conversion: SFTConversionConfig = field(default_factory=SFTConversionConfig)

    def __post_init__(self) -> None:
        problems = Problems()
        chat = self.conversion.format == "chatml" or not self.use
        problems.check(
            chat, "trajectories.conversion.format", self.conversion.format, "chatml in a run: it trains on chats"
        )
        problems.report()
