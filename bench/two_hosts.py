"""Edge and cloud on two hosts: measured TTFT and OTPS over real sockets, beside what the virtual clock predicts.

    sudo -E python -m bench.two_hosts                   about 2 minutes on 2 idle cores
    sudo -E python -m bench.two_hosts --rtt-ms 0 40 --samples 5 task.entropy_threshold=0.5

The hosts are two network namespaces joined by a veth pair, which takes root. Delay and rate come from `tc netem` where
the kernel has it, else from a relay beside the cloud that holds every byte back for half a round trip and lets through
no more than the rate; the table says which. Words after the options are overrides as for launch.py, for both hosts.

The prediction takes the turns of the loop as measured at the first round trip (0 ms: gRPC, the relay, and nothing
else) and prices them on the network asked for, by edgecloud/timeline.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EDGE, CLOUD = "edgebench-edge", "edgebench-cloud"  # namespaces
EDGE_IP, CLOUD_IP = "192.0.2.2", "192.0.2.1"  # of RFC 5737: nobody's
PORT, RELAY_PORT = 50051, 50052
DECODING = ("task.verification=lossless", "task.gate=entropy", "task.entropy_threshold=0.5", "task.k=4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One decoded sample, as the edge's process reports it."""

    ttft_s: float
    total_s: float
    tokens: list[int]
    rounds: list[dict[str, Any]]
    question_bytes: int

    @property
    def otps(self) -> float:
        """Tokens a second, first token included."""
        return len(self.tokens) / self.total_s


def sh(command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the set-up."""
    return subprocess.run(command.split(), check=check, capture_output=True, text=True)


def why_not() -> str | None:
    """What is missing here to make namespaces; None when nothing is."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("tc"):
        return "network namespaces need Linux with iproute2 (ip, tc)"
    if os.geteuid() != 0:
        return "network namespaces need root; run it with sudo -E"
    return None


@contextmanager
def hosts() -> Iterator[None]:
    """The two namespaces, joined."""
    for name in (EDGE, CLOUD):
        sh(f"ip netns del {name}", check=False)
        sh(f"ip netns add {name}")
    try:
        sh(f"ip link add eb0 netns {EDGE} type veth peer name eb0 netns {CLOUD}")
        for name, address in ((EDGE, EDGE_IP), (CLOUD, CLOUD_IP)):
            sh(f"ip -n {name} addr add {address}/24 dev eb0")
            sh(f"ip -n {name} link set eb0 up")
            sh(f"ip -n {name} link set lo up")
        yield
    finally:
        for name in (EDGE, CLOUD):
            sh(f"ip netns del {name}", check=False)


def netem(rtt_ms: float, mbit_s: float | None) -> bool:
    """Shape both ends with the kernel's netem; False where it has none."""
    rate = f" rate {mbit_s}mbit" if mbit_s else ""
    commands = (f"tc -n {name} qdisc replace dev eb0 root netem delay {rtt_ms / 2}ms{rate}" for name in (EDGE, CLOUD))
    return all(sh(command, check=False).returncode == 0 for command in commands)


async def relay(delay_s: float, mbit_s: float | None) -> None:
    """Pass bytes between `RELAY_PORT` and the cloud, each `delay_s` late and no more than the rate each way."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, chunks = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def emit() -> None:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                writer.write(chunk)
                await writer.drain()
                if not chunk:
                    writer.close()
                    return

        emitting, free = asyncio.create_task(emit()), 0.0
        while True:
            chunk = await reader.read(1 << 14)
            free = max(free, loop.time()) + (8e-6 * len(chunk) / mbit_s if mbit_s else 0.0)
            chunks.put_nowait((free + delay_s, chunk))
            if not chunk:
                break
        await emitting

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(CLOUD_IP, PORT)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    server = await asyncio.start_server(connect, CLOUD_IP, RELAY_PORT)
    print("relaying", flush=True)
    await server.serve_forever()


def as_edge(address: str, number: int, overrides: list[str]) -> None:
    """The edge's process: decode, and print each sample as JSON."""
    from edgecloud.cloud import composed
    from edgecloud.data import read_data
    from edgecloud.pair import load_pair
    from edgecloud.task import ask, decoder
    from suite.context import RunContext

    config = composed([*overrides, "task.transport=grpc", f"task.cloud_address={address}", "task.on_cloud_loss=fail"])
    nowhere: Any = None
    ctx = RunContext(config=config, folder=ROOT, samples=nowhere, tracker=nowhere)
    pair = load_pair(ctx, config.task)
    decode = decoder(config.task, pair, config.seed)
    samples = read_data(config.dataset).samples[:number]
    for i, sample in enumerate([samples[0], *samples]):
        prompt, _ = ask(sample, pair)
        out = decode(sample, prompt)
        clip = prompt.audio["input_features"].numel() * 4 if prompt.audio else 0
        found = Sample(
            ttft_s=out.times_s[0],
            total_s=out.times_s[-1],
            tokens=out.tokens,
            rounds=[asdict(turn) for turn in out.rounds],
            question_bytes=clip + 3 * len(prompt.tokens),
        )
        if i:  # the first is a warm-up
            print(json.dumps(asdict(found)), flush=True)
    assert pair.line is not None
    pair.line.close()


def run_edge(address: str, number: int, overrides: list[str]) -> list[Sample]:
    """`as_edge` on the edge's host."""
    command = ["ip", "netns", "exec", EDGE, sys.executable, "-m", "bench.two_hosts", "--as-edge", address]
    done = subprocess.run(
        [*command, "--samples", str(number), *overrides], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"The edge's process failed:\n{done.stderr}")
    return [Sample(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def predicted(samples: list[Sample], rtt_ms: float, mbit_s: float | None) -> tuple[float, float]:
    """(median TTFT in ms, median tokens/s) on the virtual clock."""
    from edgecloud.codecs import Codec
    from edgecloud.decode import Round
    from edgecloud.network import NetworkConfig
    from edgecloud.timeline import split

    network = NetworkConfig(name="bench", rtt_ms=rtt_ms, up_mbit_s=mbit_s, down_mbit_s=mbit_s, header_bytes=66)
    codec = Codec(name="ids", vocab=1 << 16)
    lines = [
        split([Round(**turn) for turn in sample.rounds], network, codec, question=sample.question_bytes)
        for sample in samples
    ]
    return 1e3 * statistics.median(line.ttft_s for line in lines), statistics.median(line.otps for line in lines)


@contextmanager
def started(*command: str, ready: str) -> Iterator[None]:
    """A process of the cloud's host, from the line that says it is ready."""
    whole = ["ip", "netns", "exec", CLOUD, sys.executable, "-m", *command]
    with subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            if ready not in line:
                sys.exit(f"{command[0]} did not start: {line}")
            yield
        finally:
            child.terminate()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="TTFT and OTPS between two hosts, measured and predicted.")
    parser.add_argument("--rtt-ms", type=float, nargs="+", default=[0, 10, 40, 100])
    parser.add_argument("--mbit-s", type=float, default=None, help="rate each way; none where left out")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--as-edge", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--as-relay", metavar="DELAY_S", type=float, help=argparse.SUPPRESS)
    args, overrides = parser.parse_known_args()
    if args.as_relay is not None:
        asyncio.run(relay(args.as_relay, args.mbit_s))
    elif args.as_edge:
        as_edge(args.as_edge, args.samples, overrides)
    elif reason := why_not():
        print(f"Not measured: {reason}.")
    else:
        measure(args, [*DECODING, *overrides])


def measure(args: argparse.Namespace, overrides: list[str]) -> None:
    """One row a round trip."""
    os.environ.setdefault("EDGECLOUD_TOKEN", secrets.token_hex(16))
    with (
        hosts(),
        started(
            "edgecloud.cloud",
            "--host",
            CLOUD_IP,
            "--port",
            str(PORT),
            "--max-sessions",
            "1",
            *overrides,
            ready="serving",
        ),
    ):
        kernel = netem(0.0, None)
        print("| RTT, ms | TTFT, ms | predicted | tokens/s | predicted | cloud calls a sample | delay by |")
        print("|---|---|---|---|---|---|---|")
        first: list[Sample] | None = None
        for rtt_ms in args.rtt_ms:
            with ExitStack() as stack:
                address, by = f"{CLOUD_IP}:{PORT}", "the kernel"
                if kernel:
                    netem(rtt_ms, args.mbit_s)
                else:
                    address, by = f"{CLOUD_IP}:{RELAY_PORT}", "a relay (no netem here)"
                    rate = ["--mbit-s", str(args.mbit_s)] if args.mbit_s else []
                    delay = ["--as-relay", str(rtt_ms / 2e3), *rate]
                    stack.enter_context(started("bench.two_hosts", *delay, ready="relaying"))
                found = run_edge(address, args.samples, overrides)
            first = first or found
            if [sample.tokens for sample in found] != [sample.tokens for sample in first]:
                sys.exit("The tokens depend on the network.")
            ttft_ms, otps = predicted(first, rtt_ms - args.rtt_ms[0], args.mbit_s)
            measured = 1e3 * statistics.median(s.ttft_s for s in found), statistics.median(s.otps for s in found)
            calls = statistics.mean(sum(turn["called"] for turn in sample.rounds) for sample in found)
            print(
                f"| {rtt_ms:g} | {measured[0]:.1f} | {ttft_ms:.1f} | {measured[1]:.1f} | {otps:.1f} | {calls:.1f} "
                f"| {by} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
