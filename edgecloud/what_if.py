"""`task=specdec_what_if`: what splitting would bring with models, devices and a network that are not here.

Who accepts what is real: the configured pair decodes the samples. What each round would take with other models on other
devices is modelled (roofline.py, network.py), for five arms that emit the same tokens:

edge        the edge alone
cloud       the cloud alone: the question goes up once, tokens stream down
split       the edge drafts, the cloud verifies
overlap     the same, and the edge drafts on while the cloud verifies
colocated   the same rounds with both models in the cloud: the question goes up once, tokens stream down
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecloud.codecs import Codec, question_bytes, sound_bytes
from edgecloud.data import Sample, read_data
from edgecloud.network import NetworkConfig
from edgecloud.schema import VoicesConfig, WhatIfConfig
from suite.config import RunConfig
from suite.context import ok
from suite.errors import UserError
from suite.hardware.profile import HardwareConfig
from suite.hardware.roofline import Roofline, Shape, roofline
from suite.report.words import metric_text
from suite.result import Metric, Result
from suite.stats import metric, ratio_ci

if TYPE_CHECKING:
    from edgecloud.decode import Round
    from edgecloud.timeline import Timeline
    from suite.context import RunContext

ARMS = {
    "edge": "the edge alone",
    "cloud": "the cloud alone, streamed",
    "split": "edge drafts, cloud verifies",
    "overlap": "split, drafting on meanwhile",
    "colocated": "both in the cloud, streamed",
}
FARTHEST_MS = 2000.0
"""Round trips beyond this are not asked about."""
PLOT = "plots/what_if.svg"
# of every arm -> unit
FIGURES = {
    "ttft_ms": "ms",
    "otps": "tokens/s",
    "cloud_ms_per_token": "ms",
    "bytes_up": "B",
    "cost_usd_per_1k": "USD",
    "energy_j_per_token": "J",
}
# columns of the table on the terminal: figure -> heading
SHOWN = {
    "ttft_ms": "TTFT, ms",
    "otps": "tokens/s",
    "cloud_ms_per_token": "cloud ms a token",
    "cost_usd_per_1k": "USD a 1000 tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One sample as it was decoded here: what its rounds computed, and the size of its question."""

    id: str
    rounds: list[Round]
    prompt: int
    text: int
    bins: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The devices and models asked about."""

    task: WhatIfConfig
    edge: HardwareConfig
    seed: int
    codec: Codec
    on_edge: dict[str, Roofline]
    on_cloud: dict[str, Roofline]

    def priced(self, one: Decoded) -> dict[str, list[Round]]:
        """Rounds of a sample by where the edge's model runs (`edge`, `cloud`), and of each model alone."""
        from edgecloud.clock import modelled
        from edgecloud.timeline import plain_rounds

        tokens = sum(turn.committed for turn in one.rounds)
        found = {
            "split": modelled(one.rounds, self.on_edge, one.prompt, one.frames),
            "colocated": modelled(one.rounds, self.on_cloud, one.prompt, one.frames),
        }
        for name in ("edge", "cloud"):
            rounds = plain_rounds([0.0] * tokens, name, one.prompt)
            found[name] = modelled(rounds, self.on_edge, one.prompt, one.frames)
        return found

    def timeline(self, arm: str, one: Decoded, rounds: dict[str, list[Round]], network: NetworkConfig) -> Timeline:
        """One sample by one of `ARMS` on a network; `rounds` as from `priced`."""
        from edgecloud.timeline import served, split

        if arm == "edge":
            return split(rounds["edge"], network, self.codec)
        asked = question_bytes(one.text, self.codec, sound_bytes(self.task.audio_codec, one.bins, one.frames))
        luck: dict[str, Any] = {"question": asked, "seed": self.seed, "sample": one.id}
        if arm in ("cloud", "colocated"):
            return served(rounds[arm], network, self.codec, **luck)
        return split(rounds["split"], network, self.codec, overlap=arm == "overlap", **luck)


def run(cfg: RunConfig, ctx: RunContext) -> Result:
    """Decode, then price.

    Raises:
        UserError: bad input, a profile without the figures of a roofline, or no sample could be decoded.
    """
    from edgecloud.decode import Round

    task: WhatIfConfig = cfg.task
    world = world_of(cfg)  # a figure that is missing is told before anything is decoded
    data = read_data(cfg.dataset)
    decode_all(cfg, ctx, data.samples)
    rows = ok(ctx.samples)
    if not rows:
        raise UserError(f"No sample could be decoded; the first one: {next(iter(ctx.samples))['error']}")
    decoded = [Decoded(**row["decoded"] | {"rounds": [Round(**one) for one in row["rounds"]]}) for row in rows]
    priced = [(one, world.priced(one)) for one in decoded]
    metrics: dict[str, Metric] = {}
    for arm in ARMS:
        metrics |= arm_metrics(arm, [world.timeline(arm, one, rounds, task.network) for one, rounds in priced], world)
    accepted = [row["metrics"]["accepted"] for row in rows]
    estimate = ratio_ci(accepted, [row["metrics"]["tested"] for row in rows], seed=cfg.seed)
    metrics["acceptance_rate"] = estimate.metric(unit="1", origin="measured", note="of the pair decoded here")
    metrics |= crossings(priced, world)
    grid = {rtt_ms: {arm: means(arm, priced, world, rtt_ms) for arm in ARMS} for rtt_ms in task.rtts_ms}
    draw(ctx.folder / PLOT, grid, task)
    facts = {
        "headline": ["acceptance_rate"],
        "tables": [overview(metrics, task), verdict(metrics)],
        "grid": {f"{rtt_ms:g}": point for rtt_ms, point in grid.items()},
        "plot": PLOT,
        "weights_gb": {
            "edge": world.on_edge["edge"].weights_gb,
            "cloud": world.on_edge["cloud"].weights_gb,
        },
    }
    return Result(metrics=metrics, facts=facts)


def world_of(cfg: RunConfig) -> World:
    """The rooflines of both models where they run.

    Raises:
        UserError: a profile or a shape lacks a figure.
    """
    task: WhatIfConfig = cfg.task
    shapes = {name: Shape.of(task.shapes[name]) for name in ("edge", "cloud")}
    names = {name: str(task.shapes[name].get("name", name)) for name in shapes}
    cloud = roofline(shapes["cloud"], task.cloud_hardware, names["cloud"], weight_bits=task.cloud_weight_bits)
    return World(
        task=task,
        edge=cfg.hardware,
        seed=cfg.seed,
        codec=Codec(name=task.codec, vocab=shapes["cloud"].vocab, top=task.codec_top),
        on_edge={
            "edge": roofline(shapes["edge"], cfg.hardware, names["edge"], weight_bits=task.edge_weight_bits),
            "cloud": cloud,
        },
        on_cloud={
            "edge": roofline(shapes["edge"], task.cloud_hardware, names["edge"], weight_bits=task.cloud_weight_bits),
            "cloud": cloud,
        },
    )


def decode_all(cfg: RunConfig, ctx: RunContext, samples: Sequence[Sample]) -> None:
    """The rounds of every sample, into samples.jsonl."""
    from edgecloud.clock import sound_frames
    from edgecloud.pair import load_pair
    from edgecloud.task import ask, check_hears, decoder

    task: WhatIfConfig = replace(cfg.task, overlap=True)  # asks for the guesses, from which both arms are priced
    pair = load_pair(ctx, task)
    if isinstance(cfg.dataset, VoicesConfig):
        check_hears(pair)
    decode = decoder(task, pair, cfg.seed)
    placeholder = None
    if pair.cloud is not None and pair.cloud.ears is not None:
        placeholder = pair.cloud.ears.config.audio_token_id

    def work(sample: Sample) -> dict[str, Any]:
        prompt, _ = ask(sample, pair)
        output = decode(sample, prompt)
        return {
            "decoded": {
                "id": sample.id,
                "prompt": len(prompt.tokens),
                "text": sum(token != placeholder for token in prompt.tokens),
                "bins": 0 if prompt.audio is None else prompt.audio["input_features"].shape[1],
                "frames": sound_frames(prompt),
            },
            "rounds": [asdict(turn) for turn in output.rounds],
            "metrics": {
                "emitted": len(output.tokens),
                "calls": output.counters.rounds,
                "tested": output.counters.tested,
                "accepted": output.counters.accepted,
            },
        }

    ctx.each(samples, work, label="what if")


def arm_metrics(arm: str, lines: Sequence[Timeline], world: World) -> dict[str, Metric]:
    """`FIGURES` of one arm, over samples."""
    from edgecloud.timeline import bill

    bills = [bill(line, world.edge, world.task.cloud_hardware, world.task.network) for line in lines]
    values: dict[str, list[float | None]] = {
        "ttft_ms": [1e3 * line.ttft_s for line in lines],
        "otps": [line.otps for line in lines],
        "cloud_ms_per_token": [1e3 * line.cloud_s / line.tokens for line in lines],
        "bytes_up": [float(line.bytes_up) for line in lines],
        "cost_usd_per_1k": [_share(b.cost_usd, line.tokens / 1e3) for b, line in zip(bills, lines, strict=True)],
        "energy_j_per_token": [_share(b.energy_j, line.tokens) for b, line in zip(bills, lines, strict=True)],
    }
    return {
        f"{arm}_{name}": metric(values[name], unit=unit, seed=world.seed, origin="modelled", note=ARMS[arm])
        for name, unit in FIGURES.items()
    }


Priced = Sequence[tuple[Decoded, dict[str, list["Round"]]]]


def means(arm: str, priced: Priced, world: World, rtt_ms: float) -> dict[str, float]:
    """Mean TTFT (ms) and OTPS of an arm at one round trip, without jitter and loss."""
    network = replace(world.task.network, rtt_ms=rtt_ms, jitter_ms=0.0, loss=0.0)
    lines = [world.timeline(arm, one, rounds, network) for one, rounds in priced]
    return {
        "ttft_ms": sum(1e3 * line.ttft_s for line in lines) / len(lines),
        "otps": sum(line.otps for line in lines) / len(lines),
    }


def crossings(priced: Priced, world: World) -> dict[str, Metric]:
    """From which round trip on splitting loses, in tokens a second and in time to first token, against whom."""
    found = {}
    for arm in ("split", "overlap"):
        for other in ("edge", "cloud"):
            for figure, sign in (("otps", 1.0), ("ttft_ms", -1.0)):

                def lead(rtt_ms: float, arm: str = arm, other: str = other, at: str = figure, s: float = sign) -> float:
                    return s * (means(arm, priced, world, rtt_ms)[at] - means(other, priced, world, rtt_ms)[at])

                rtt_ms, note = crossing(lead)
                found[f"{arm}_loses_{figure.removesuffix('_ms')}_to_{other}"] = Metric(
                    value=rtt_ms, unit="ms", n=len(priced), origin="modelled", note=note
                )
    return found


def crossing(lead: Callable[[float], float]) -> tuple[float | None, str]:
    """The round trip (ms) from which on `lead`, which falls with it, is not positive; None where it stays so."""
    if lead(0.0) <= 0:
        return 0.0, "loses at every RTT, even 0"
    if lead(FARTHEST_MS) > 0:
        return None, f"does not up to {FARTHEST_MS:g} ms"
    low, high = 0.0, FARTHEST_MS
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if lead(middle) > 0 else (low, middle)
    return high, "loses from this RTT on"


def overview(metrics: dict[str, Metric], task: WhatIfConfig) -> dict[str, Any]:
    """The arms, one a row, for the terminal and the report."""
    rows = [[arm, *(metric_text(metrics[f"{arm}_{name}"].to_json(), "\n") for name in SHOWN)] for arm in ARMS]
    net = task.network
    title = f"All times are modelled, on network={net.name} (RTT {net.rtt_ms:g} ms); 95 % intervals over samples"
    return {"title": title, "header": ["arm", *SHOWN.values()], "rows": rows}


def verdict(metrics: dict[str, Metric]) -> dict[str, Any]:
    """From which round trip on splitting loses, to whom and in what."""
    rows = []
    for arm in ("split", "overlap"):
        for figure in ("otps", "ttft"):
            found = [metrics[f"{arm}_loses_{figure}_to_{other}"] for other in ("edge", "cloud")]
            said = ["never" if one.value is None else f"{one.value:.0f} ms" if one.value else "any" for one in found]
            rows.append([f"{arm}, {'tokens/s' if figure == 'otps' else 'TTFT'}", *said])
    title = "From which round trip on splitting loses"
    return {"title": title, "header": ["", "to the edge alone", "to the cloud alone"], "rows": rows}


def draw(path: Path, grid: dict[float, dict[str, dict[str, float]]], task: WhatIfConfig) -> None:
    """The plot: OTPS and TTFT of every arm along the round trip."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path.parent.mkdir(exist_ok=True)
    titles = {"otps": "tokens/s (modelled)", "ttft_ms": "time to first token, ms (modelled)"}
    with mpl.rc_context({"svg.hashsalt": "what_if"}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        for axis, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for arm in ARMS:
                axis.plot(list(grid), [point[arm][name] for point in grid.values()], ".-", label=arm)
            axis.axvline(task.network.rtt_ms, color="grey", linestyle=":", linewidth=1)
            axis.set(xlabel="round trip, ms", ylabel=title, yscale="log")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=len(ARMS), fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _share(total: float | None, parts: float) -> float | None:
    return None if total is None else total / parts
