"""What a user can set for `task=argo`, and what is legal. No torch here."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from suite.config import store
from suite.errors import ConfigError, check_choice, check_range

STRATEGIES = ["argo", "always_retrieve", "always_reason", "random", "fixed_k", "confidence", "difficulty"]
"""A list, so that a strategy of one's own can be added (docs/extending.md)."""
MODES = {"small": 10, "medium": 100, "full": 1000}
"""Questions of a run, by `task.mode`; the grid has 5 cost points in `small`, 10 in the others."""
REWARDS = ("linear", "sqrt", "saturating", "sigmoid")
SUCCESSES = ("bernoulli", "similarity", "judged")
RETRIEVERS = ("chroma", "exact", "bm25")
ENGINES = ("transformers", "openai")
ANSWERINGS = ("likelihood", "generate")
PROMPT_FORMATS = ("mixed", "plain", "chat")
COST_AXES = ("linear", "breakpoints")
DATASETS = ("oran_mini", "oran_bench", "questions", "multihop")
DIFFICULTIES = ("easy", "medium", "hard", "mixed")
SPLITS = ("test", "dev")
FINEST = 10_000
"""Units of U = 1 at most: progress in four decimals."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class MdpConfig:
    """The decision process: how far each action is believed to get, and what it costs (mdp.py)."""

    delta_r: float = 0.15
    """Progress of a retrieval that succeeds."""
    delta_p: float = 0.08
    """Progress of a reasoning step from the model's own knowledge."""
    p_s: float = 0.7
    """Chance that a retrieval succeeds."""
    c_p: float = 0.1
    """Cost of a reasoning step; the cost of a retrieval is task.cost_ratio times this."""
    mu: float = 0.6
    """Price of cost in units of reward."""
    gamma: float = 1.0
    """Discount per step."""
    reward: str = "linear"
    """sigma(U), paid on termination: `linear`, `sqrt`, `saturating` (1 - exp(-alpha U)) or `sigmoid`
    (1 / (1 + exp(-alpha (U - 1/2))))."""
    alpha: float = 3.0
    """Steepness of `saturating` and `sigmoid`."""

    def __post_init__(self) -> None:
        check_range("task.mdp.delta_r", self.delta_r, 1e-6, 1.0)
        check_range("task.mdp.delta_p", self.delta_p, 1e-6, 1.0)
        check_range("task.mdp.p_s", self.p_s, 0.0, 1.0)
        check_range("task.mdp.c_p", self.c_p, 1e-9, 1e9)
        check_range("task.mdp.mu", self.mu, 0.0, 1e9)
        check_range("task.mdp.gamma", self.gamma, 1e-6, 1.0)
        check_choice("task.mdp.reward", self.reward, REWARDS)
        check_range("task.mdp.alpha", self.alpha, 1e-6, 1e6)
        self.lattice()

    def lattice(self) -> tuple[int, int, int]:
        """The coarsest lattice that holds delta_r, delta_p and 1 as typed: units of U = 1, and both steps in units.

        Raises:
            ConfigError: it has more than `FINEST` units.
        """
        steps = {name: Fraction(str(getattr(self, name))) for name in ("delta_r", "delta_p")}
        units = math.lcm(*(step.denominator for step in steps.values()))
        if units > FINEST:
            name, step = next((name, step) for name, step in steps.items() if FINEST % step.denominator)
            near = max(1, round(step * FINEST)) / FINEST
            raise ConfigError(
                f"task.mdp.{name}={float(step)} makes a lattice of {units} states; it may have {FINEST}: take {near:g}."
            )
        return units, int(steps["delta_r"] * units), int(steps["delta_p"] * units)


@dataclass(frozen=True, kw_only=True)
class ArgoConfig:
    """`task=argo`: one strategy at one cost of retrieval."""

    name: str = "argo"
    strategy: str = "argo"
    """`argo` (the optimal policy of task.mdp), `always_retrieve`, `always_reason`, `random`, `fixed_k`; `confidence`
    (retrieve while the reader's answer margin is low), `difficulty` (a first call sorts: none, once, many)."""
    cost_ratio: float = 2.0
    """c_r / c_p: what a retrieval costs in reasoning steps; inf: more than it can be worth."""
    mdp: MdpConfig = field(default_factory=MdpConfig)
    """Type `mdp=NAME` for a parameter set."""
    mode: str = "small"
    """Questions: `small` 10, `medium` 100, `full` 1000, or what the data set has; dataset.max_samples wins."""
    fixed_k: int = 3
    """`fixed_k`: retrievals before the answer."""
    confidence_margin: float = 1.0
    """`confidence`: retrieve while the best option leads the second by fewer nats than this."""
    max_steps: int = 20
    """Steps of a question at most, failed retrievals included."""
    success: str = "bernoulli"
    """When a retrieval succeeds: by lot with task.mdp.p_s; `similarity` of the best passage at least
    task.similarity_threshold; `judged`, the reader is at least as sure of an answer with the passages as without."""
    similarity_threshold: float = 0.5
    """`similarity`: least cosine of the best passage (bm25: least share of the best score it gives the question)."""
    retriever: str = "chroma"
    """`chroma` (vectors in a database on disk), `exact` (the same vectors, exact search), `bm25` (words)."""
    top_k: int = 1
    """Passages handed on by a retrieval; those handed on before are skipped."""
    answering: str = "likelihood"
    """Multiple choice: the option whose text is likeliest, or the one whose number is generated (`generate`)."""
    prompt_format: str = "mixed"
    """How generated text is asked for: `chat`, a turn by the model's template; `plain`, text to go on from; `mixed`,
    plain examples for sub-queries and turns for answers, which suits instruct models below 1B."""
    engine: str = "transformers"
    """`transformers` in this process; `openai`: any OpenAI-compatible server at task.server_url."""
    server_url: str = "http://127.0.0.1:8000/v1"
    """`openai`: base address, as of vLLM, SGLang, llama-server or `transformers serve`."""
    server_model: str = ""
    """`openai`: the model's name on the server."""
    server_key_env: str = "OPENAI_API_KEY"
    """`openai`: environment variable with the key; only its name is recorded."""
    server_timeout_s: float = 120.0
    """`openai`: a request that takes longer is tried again."""
    server_requests: int = 8
    """`openai`: requests under way at once."""
    max_new_tokens: int = 50
    """Tokens of a sub-query or an answer at most."""
    batch_size: int = 32
    """Calls of one batch at most; it shrinks by itself where memory runs out."""
    replicate: int = 0
    """Draws another answer to the same prompts, and other luck."""
    store: str | None = None
    """File of stored calls; None: outputs/.calls/calls.sqlite. No prompt in it is ever asked again."""

    @property
    def method(self) -> str:
        """What names the result file."""
        return self.strategy

    def __post_init__(self) -> None:
        check_choice("task.strategy", self.strategy, STRATEGIES)
        check_range("task.cost_ratio", self.cost_ratio, 0.0)
        check_choice("task.mode", self.mode, MODES)
        check_range("task.fixed_k", self.fixed_k, 0, 1000)
        check_range("task.confidence_margin", self.confidence_margin, 0.0)
        check_range("task.max_steps", self.max_steps, 1, 1000)
        check_choice("task.success", self.success, SUCCESSES)
        check_range("task.similarity_threshold", self.similarity_threshold, -1.0, 1.0)
        check_choice("task.retriever", self.retriever, RETRIEVERS)
        check_range("task.top_k", self.top_k, 1, 100)
        check_choice("task.answering", self.answering, ANSWERINGS)
        check_choice("task.prompt_format", self.prompt_format, PROMPT_FORMATS)
        check_choice("task.engine", self.engine, ENGINES)
        check_range("task.server_timeout_s", self.server_timeout_s, 0.01, 86400.0)
        check_range("task.server_requests", self.server_requests, 1, 1024)
        check_range("task.max_new_tokens", self.max_new_tokens, 1, 32768)
        check_range("task.batch_size", self.batch_size, 1, 4096)
        check_range("task.replicate", self.replicate, 0, 2**31)
        if self.engine == "openai" and not self.server_model:
            raise ConfigError("task.server_model is empty; with task.engine=openai give the model's name there.")
        if self.engine == "openai" and (self.answering, self.prompt_format) != ("generate", "chat"):
            raise ConfigError(
                "task.engine=openai answers chat turns and gives no likelihoods of a text; set "
                "task.answering=generate task.prompt_format=chat."
            )
        if self.strategy == "confidence" and self.answering != "likelihood":
            raise ConfigError("task.strategy=confidence needs the options' likelihoods; set task.answering=likelihood.")
        if self.success == "judged" and self.answering != "likelihood":
            raise ConfigError("task.success=judged needs the options' likelihoods; set task.answering=likelihood.")

    def models_used(self) -> tuple[str, ...]:
        """Names in the `models` group of the models that can move a number."""
        reader = () if self.engine == "openai" else ("llm",)
        return reader if self.retriever == "bm25" else (*reader, "embedder")

    def copied_models(self) -> tuple[str, ...]:
        """None: the calls of all questions are batched in one process, which deals them to its replicas (pool.py)."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ArgoGraphsConfig(ArgoConfig):
    """`task=argo_graphs`: every strategy at every cost point, in one job on one tree of calls."""

    name: str = "argo_graphs"
    strategies: list[str] = field(default_factory=lambda: list(STRATEGIES[:5]))
    """Lines of the graphs."""
    cost_axis: str = "linear"
    """`linear`: c_r evenly from 1 to 10 c_p; `breakpoints`: one point inside every step of the optimal policy."""
    cost_points: int | None = None
    """Points of the linear axis; None: 5 in `small`, 10 in the other modes."""
    cost_ratios: list[float] = field(default_factory=list)
    """The points themselves (c_r / c_p); empty: by `cost_axis`."""

    @property
    def method(self) -> str:
        """What names the result file."""
        return "argo_graphs"

    def __post_init__(self) -> None:
        super().__post_init__()
        for strategy in self.strategies:
            check_choice("task.strategies", strategy, STRATEGIES)
        if not self.strategies or len(set(self.strategies)) < len(self.strategies):
            raise ConfigError(f"task.strategies={self.strategies} must name different strategies, at least one.")
        check_choice("task.cost_axis", self.cost_axis, COST_AXES)
        for ratio in self.cost_ratios:
            check_range("task.cost_ratios", ratio, 0.0)
        if self.cost_points is not None:
            check_range("task.cost_points", self.cost_points, 2, 1000)


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(ArgoConfig):
    """`task=argo_calibration`: what steps bring on held-out questions."""

    name: str = "argo_calibration"
    mode: str = "medium"
    steps: int = 7
    """Length of the two chains, of retrievals and of reasoning."""

    @property
    def method(self) -> str:
        """What names the result file."""
        return "argo_calibration"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("task.steps", self.steps, 1, 100)


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Questions and the passages that may answer them (questions.py)."""

    name: str = "oran_mini"
    """`oran_mini` comes with the suite; `oran_bench`: ORAN-Bench-13K; `questions`: JSON Lines of your own with a corpus
    of your own; `multihop`: JSON Lines whose rows bring their paragraphs."""
    path: str | None = None
    """File of questions (`oran_bench`: the folder with fin_E.json, fin_M.json, fin_H.json)."""
    corpus: str | None = None
    """Passages: a JSON Lines file, or a folder of text files. `oran_mini` and `multihop` bring theirs; `oran_bench`
    without one takes oran_mini's."""
    difficulty: str = "hard"
    """`easy`, `medium`, `hard`, or `mixed` (all, in turn); for data that tells no difficulty, `mixed` alone."""
    split: str = "test"
    """`oran_mini`: `test`, or `dev` (held out, for prompts and calibration)."""
    max_samples: int | None = None
    """Take the first so many; None: as many as task.mode says."""

    def __post_init__(self) -> None:
        check_choice("dataset.name", self.name, DATASETS)
        check_choice("dataset.difficulty", self.difficulty, DIFFICULTIES)
        check_choice("dataset.split", self.split, SPLITS)
        if self.max_samples is not None:
            check_range("dataset.max_samples", self.max_samples, 1)
        if self.name != "oran_mini" and self.path is None:
            raise ConfigError(f"dataset={self.name} needs dataset.path=FILE.")
        if self.name == "oran_mini" and (self.path is not None or self.corpus is not None):
            raise ConfigError("dataset=oran_mini brings its own files; for yours choose dataset=questions or multihop.")
        if self.name == "multihop" and self.corpus is not None:
            raise ConfigError("dataset=multihop takes its passages from its rows; drop dataset.corpus.")
        if self.name == "questions" and self.corpus is None:
            raise ConfigError("dataset=questions needs dataset.corpus=FILE_OR_FOLDER, the passages to retrieve from.")
        for option, value in (("path", self.path), ("corpus", self.corpus)):
            if value is not None and not Path(value).expanduser().exists():
                raise ConfigError(f"dataset.{option}={value} does not exist; give a file or folder that does.")

    def files(self) -> list[Path]:
        """Every file that holds questions or passages, in a fixed order."""
        own = ROOT / "zoo" / "oran_mini"
        roots = [Path(value).expanduser() for value in (self.path, self.corpus) if value is not None]
        if self.name == "oran_mini" or (self.name == "oran_bench" and self.corpus is None):
            roots.append(own)
        return [path for root in roots for path in ([root] if root.is_file() else _data_files(root))]

    def digest(self) -> str:
        """SHA-256 (hex) of the data."""
        whole = hashlib.sha256()
        for path in self.files():
            whole.update(hashlib.sha256(path.read_bytes()).digest())
        return whole.hexdigest()


def _data_files(folder: Path) -> list[Path]:
    data = (".json", ".jsonl", ".txt", ".md")
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in data]


def register() -> None:
    """Make the schemas known to Hydra."""
    store(MdpConfig, name="mdp_schema")
    store(ArgoConfig, name="argo_schema")
    store(ArgoGraphsConfig, name="argo_graphs_schema")
    store(CalibrationConfig, name="argo_calibration_schema")
    store(QuestionsConfig, name="questions_schema")
