"""From a job's options to prices of its samples: which network, which codec, whose seconds.

Times are `measured` (this machine's, of both models) or `modelled` (a roofline of the two hardware profiles, from what
each round computed); the network's are always modelled. See timeline.py for what is added to what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgecloud.codecs import Codec, question_bytes, sound_bytes
from edgecloud.decode import Output, Round
from edgecloud.lm import Prompt
from edgecloud.schema import SpecDecConfig
from edgecloud.timeline import Timeline, bill, plain_rounds, served, split
from suite.config import RunConfig
from suite.hardware.profile import HardwareConfig
from suite.hardware.roofline import Roofline, Shape, calibrate, roofline
from suite.result import Metric
from suite.stats import metric

if TYPE_CHECKING:
    from edgecloud.pair import Pair

# name -> unit, note
METRICS = {
    "e2e_ttft_ms": ("ms", "end to end: time to first token with the network"),
    "e2e_otps": ("tokens/s", "end to end: output tokens over total time with the network"),
    "e2e_total_ms": ("ms", "end to end: one sample; the sum of the next five"),
    "e2e_edge_ms": ("ms", "part of it: the edge computes and nothing else goes on"),
    "e2e_uplink_ms": ("ms", "part of it: bytes leave the edge"),
    "e2e_cloud_ms": ("ms", "part of it: the cloud computes"),
    "e2e_downlink_ms": ("ms", "part of it: bytes arrive"),
    "e2e_waiting_ms": ("ms", "part of it: messages are in flight"),
    "e2e_question_ms": ("ms", "part of the uplink: the prompt and its clip"),
    "bytes_up": ("B", "encoded messages to the cloud, per sample, without headers"),
    "bytes_down": ("B", "encoded messages to the edge, per sample, without headers"),
    "cost_usd": ("USD", "per sample: compute and traffic"),
    "compute_usd": ("USD", "part of it: the cloud while it computes for this sample"),
    "traffic_usd": ("USD", "part of it: bytes on the wire, headers included"),
    "energy_j": ("J", "per sample: edge, cloud and radio, by their power"),
    "edge_j": ("J", "part of it: the edge while it computes"),
    "cloud_j": ("J", "part of it: the cloud while it computes for this sample"),
    "radio_j": ("J", "part of it: the edge's radio"),
}
HEADLINE = ("e2e_ttft_ms", "e2e_otps", "bytes_up", "bytes_down", "cost_usd", "energy_j")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Prices the samples of one job.

    Attributes:
        task: its options.
        edge: where the edge runs.
        seed: of jitter and loss.
        codec: of the messages.
        rooflines: of `edge` and `cloud` when times are modelled; None when they are measured.
        placeholder: token id that stands for sound in a prompt; None where there is none.
        replayed: whether the models' seconds come from a trace, not from this run.
    """

    task: SpecDecConfig
    edge: HardwareConfig
    seed: int
    codec: Codec
    rooflines: dict[str, Roofline] | None
    placeholder: int | None
    replayed: bool

    def timeline(self, output: Output, prompt: Prompt, sample: str) -> Timeline:
        """One decoded sample on the virtual clock."""
        method, network = self.task.method, self.task.network
        frames = sound_frames(prompt)
        rounds = output.rounds if output.rounds else plain_rounds(output.times_s, method, len(prompt.tokens))
        if self.rooflines is not None:
            rounds = modelled(rounds, self.rooflines, len(prompt.tokens), frames)
        asked = question(prompt, self.codec, self.task.audio_codec, self.placeholder)
        if method in ("cloud", "colocated"):
            return served(rounds, network, self.codec, question=asked, seed=self.seed, sample=sample)
        return split(
            rounds,
            network,
            self.codec,
            question=asked,
            overlap=self.task.overlap,
            seed=self.seed,
            sample=sample,
        )

    def per_sample(self, output: Output, prompt: Prompt, sample: str) -> dict[str, float | None]:
        """The numbers of `METRICS` for one sample."""
        line = self.timeline(output, prompt, sample)
        cost = bill(line, self.edge, self.task.cloud_hardware, self.task.network)
        return {
            "e2e_ttft_ms": 1e3 * line.ttft_s,
            "e2e_otps": line.otps,
            "e2e_total_ms": 1e3 * line.total_s,
            "e2e_edge_ms": 1e3 * line.edge_s,
            "e2e_uplink_ms": 1e3 * line.uplink_s,
            "e2e_question_ms": 1e3 * line.question_s,
            "e2e_cloud_ms": 1e3 * line.cloud_s,
            "e2e_downlink_ms": 1e3 * line.downlink_s,
            "e2e_waiting_ms": 1e3 * line.waiting_s,
            "bytes_up": line.bytes_up,
            "bytes_down": line.bytes_down,
            "cost_usd": cost.cost_usd,
            "energy_j": cost.energy_j,
            **asdict(cost),
        }

    def compared(self, output: Output, prompt: Prompt) -> dict[str, tuple[float, float]]:
        """(modelled, measured) seconds of one sample by model, where times are modelled."""
        if self.rooflines is None or self.replayed:
            return {}
        rounds = output.rounds if output.rounds else plain_rounds(output.times_s, self.task.method, len(prompt.tokens))
        said = modelled(rounds, self.rooflines, len(prompt.tokens), sound_frames(prompt))
        pairs = {
            "edge": (sum(turn.edge_s for turn in said), output.edge_s),
            "cloud": (sum(turn.cloud_s for turn in said), output.cloud_s),
        }
        return {name: pair for name, pair in pairs.items() if name in self.rooflines and pair[1] > 0}

    @property
    def lossless(self) -> bool:
        """Whether the verifier used no more than the codec carries, and the codec changes nothing on its way."""
        if self.task.method != "specdec" or self.task.verification in ("rank", "bild"):  # neither looks at q
            return True
        greedy = self.task.temperature == 0.0
        return self.task.verification == "lossless" and self.codec.lossless(greedy=greedy)

    @property
    def note(self) -> str:
        """Where the times come from, for a reader of the record."""
        net = f"network {self.task.network.name} modelled"
        if self.rooflines is None:
            return f"compute {'as when recorded' if self.replayed else 'measured on this machine'}, {net}"
        edge = self.task.cloud_hardware if self.task.method == "colocated" else self.edge
        names = {"edge": edge.name, "cloud": self.task.cloud_hardware.name}
        return "compute modelled: " + ", ".join(f"{k} on {names[k]}" for k in self.rooflines) + f"; {net}"


def clock_of(cfg: RunConfig, pair: Pair) -> Clock | None:
    """The clock of a job; None where there is nothing to price (`SpecDecConfig.priced`).

    Raises:
        UserError: times are to be modelled and a profile or a model lacks a figure.
    """
    task: SpecDecConfig = cfg.task
    if not task.priced:
        return None
    edge = task.cloud_hardware if task.method == "colocated" else cfg.hardware
    where = {"edge": edge, "cloud": task.cloud_hardware}
    rooflines = None
    if task.clock == "modelled":
        rooflines = {
            name: roofline(Shape.of(pair.configs[name]), where[name], pair.facts[name]["id"])
            for name in task.decoders()
        }
    return Clock(
        task=task,
        edge=cfg.hardware,
        seed=cfg.seed,
        codec=codec_of(task, pair.vocab),
        rooflines=rooflines,
        placeholder=pair.placeholder,
        replayed=pair.tape is not None,
    )


def codec_of(task: SpecDecConfig, vocab: int) -> Codec:
    """The codec of a job's messages, for `vocab` token ids."""
    return Codec(name=task.codec, vocab=vocab, top=task.codec_top)


def metrics(rows: Sequence[dict[str, Any]], *, seed: int, note: str) -> dict[str, Metric]:
    """`METRICS` over samples; `note` tells where the times come from, and is told of the headline alone."""
    return {
        name: metric(
            [row[name] for row in rows],
            unit=unit,
            seed=seed,
            origin="computed" if unit == "B" else "modelled",
            note=f"{said}; {note}" if name in ("e2e_ttft_ms", "e2e_otps") else said,
        )
        for name, (unit, said) in METRICS.items()
    }


def calibration(pairs: Sequence[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    """How modelled times compare with those measured here, by model; for `hardware.calibration`."""
    found = {
        name: calibrate(*zip(*(pair[name] for pair in pairs if name in pair), strict=True))
        for name in sorted({name for pair in pairs for name in pair})
    }
    return {name: asdict(one) for name, one in found.items() if one is not None}


def modelled(rounds: Sequence[Round], lines: dict[str, Roofline], prompt: int, frames: int) -> list[Round]:
    """The rounds with the seconds that rooflines give them.

    Args:
        rounds: of one sample.
        lines: by `edge` and `cloud`; a drafter without a model has none and takes no time.
        prompt: positions of the prompt.
        frames: mel frames of its clip, heard by each model before its first token.
    """
    edge, cloud, length = lines.get("edge"), lines.get("cloud"), prompt
    unheard = {"edge": frames, "cloud": frames}
    priced = []
    for turn in rounds:
        first_s = edge_s = cloud_s = 0.0
        if edge is not None and turn.edge_positions:
            n = turn.edge_positions - (turn.drafted - 1)
            first_s = edge.tower_s(unheard["edge"]) + edge.forward_s(n, max(0, length - n))
            edge_s = first_s + sum(edge.forward_s(1, length + i) for i in range(turn.drafted - 1))
            unheard["edge"] = 0
        if cloud is not None and turn.cloud_positions:
            n = turn.cloud_positions
            end = length + turn.kept + turn.sent
            cloud_s = cloud.tower_s(unheard["cloud"]) + cloud.forward_s(n, max(0, end - n), kept=turn.sent + 1)
            unheard["cloud"] = 0
        length += turn.committed
        priced.append(replace(turn, edge_s=edge_s, cloud_s=cloud_s, first_s=first_s, loop_s=0.0))
    return priced


def question(prompt: Prompt, codec: Codec, audio_codec: str, placeholder: int | None) -> int:
    """Encoded bytes of a prompt: its text as token ids, its clip as sound or as features."""
    if prompt.audio is None:
        return question_bytes(len(prompt.tokens), codec)
    bins = prompt.audio["input_features"].shape[1]
    text = sum(token != placeholder for token in prompt.tokens)
    return question_bytes(text, codec, sound_bytes(audio_codec, bins, sound_frames(prompt)))


def sound_frames(prompt: Prompt) -> int:
    """Mel frames of a prompt's clip, 0 where there is none."""
    return 0 if prompt.audio is None else int(prompt.audio["input_features"].shape[2])
