"""Edge and cloud as two processes over real sockets: the tokens of one process, and what happens when one is lost."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgecloud import gates, verify
from edgecloud.cloud import CloudServer, Guest, Limits, composed, main, open_server
from edgecloud.decode import Ending, Output, Rules, speculate
from edgecloud.draft import EdgeDrafter
from edgecloud.lm import CachedLM, Prompt
from edgecloud.remote import CloudLost, Line, expecting
from edgecloud.sampling import Luck, Sampling
from edgecloud.schema import SpecDecConfig
from edgecloud.wire import METHOD, Open, pack, tokenizer_digest
from suite.errors import ConfigError, UserError
from suite.models.revision import revision
from suite.models.spec import ModelConfig
from tests.loop import Way, together
from tests.runs import Here, TinyPair, read_record, read_rows
from tests.served import card, line_to, process, remote, serving, until
from tests.tiny import VOCAB, llama, related, sound, thinker, tokenizer
from tests.unit.test_wire import begin, judge

ENDING = Ending(max_new_tokens=24, eos=frozenset([3]))
WAYS = {
    "greedy": Way(),
    "greedy, gated, relaxed": Way(gate=gates.entropy, threshold=1.0, verifier=verify.rank, rank_threshold=3),
    "greedy, rolled back": Way(verifier=verify.bild, surprise_threshold_nats=1.0),
    "greedy, mixed": Way(verifier=verify.ensemble),
    "greedy, oracle": Way(gate=gates.oracle, threshold=1.0),
    "sampled": Way(sampling=Sampling(temperature=1.0)),
    "sampled, nucleus": Way(sampling=Sampling(temperature=0.8, top_p=0.7), gate=gates.entropy, threshold=0.5),
    "sampled, mixed": Way(sampling=Sampling(temperature=1.0), verifier=verify.ensemble),
}
PROMPTS = {f"p{i}": Prompt(tokens=[(7 * i + 5 * j) % VOCAB for j in range(4 + i)]) for i in range(3)}


@cache
def models() -> tuple[Any, Any]:
    cloud = llama(1)
    return related(cloud, 2, noise=0.2), cloud


def split(edge: CachedLM, line: Line, way: Way, name: str, prompt: Prompt, **more: Any) -> Output:
    """Decode one sample with the cloud at the other end of `line`."""
    drafter = EdgeDrafter(edge, way.sampling, keep_q=way.verifier is verify.ensemble)
    rules = Rules(k=way.k, gate=line.gate(way.gate), threshold=way.threshold)
    cloud = remote(line, way, fall_back=more.pop("fall_back", True))
    return speculate(drafter, cloud, prompt, rules, more.pop("ending", ENDING), Luck(5, name), **more)


def same(found: Output, wanted: Output) -> bool:
    return (found.tokens, found.sources, found.counters) == (wanted.tokens, wanted.sources, wanted.counters)


@pytest.mark.parametrize("sessions", [1, 2], ids=["plain", "batched"])
def test_tokens_are_those_of_one_process(sessions: int) -> None:
    edge, cloud = models()
    with serving(cloud, VOCAB, max_sessions=sessions) as (_, address):
        line = line_to(address)
        for way in WAYS.values():
            for name, prompt in PROMPTS.items():
                found = split(CachedLM(edge), line, way, name, prompt)
                wanted = together(CachedLM(edge), CachedLM(cloud), prompt, way, ENDING, Luck(5, name))
                assert same(found, wanted), (way, name)
                assert line.loss is None and line.waited_s > 0 or found.counters.rounds == 0
        line.close()


@pytest.mark.parametrize("engine", ["lean", "transformers"], ids=["batched", "in turn"])
def test_two_edges_at_once_do_not_mix(engine: str) -> None:
    edge, cloud = models()
    some = ["greedy", "greedy, gated, relaxed", "sampled"]
    local = CachedLM(cloud, engine=engine)
    wanted = {
        (title, name): together(CachedLM(edge), local, prompt, WAYS[title], ENDING, Luck(5, name))
        for title in some
        for name, prompt in PROMPTS.items()
    }
    wrong: list[Any] = []

    def run(address: str, titles: list[str]) -> None:
        line, own = line_to(address), CachedLM(edge)
        for title in titles:
            for name, prompt in PROMPTS.items():
                if not same(split(own, line, WAYS[title], name, prompt), wanted[title, name]):
                    wrong.append((title, name))
        line.close()

    with serving(cloud, VOCAB, engine=engine) as (_, address):
        edges = [threading.Thread(target=run, args=(address, titles)) for titles in (some, some[::-1])]
        for one in edges:
            one.start()
        for one in edges:
            one.join()
    assert not wrong


def test_a_clip_is_heard_at_the_other_end() -> None:
    from edgecloud.omni import embeddings
    from tests.tiny import IDS

    cloud = thinker(1)
    edge = related(cloud, 1, noise=0.2)
    heard = [IDS["audio_bos_token"], *[IDS["audio_token"]] * embeddings(31), IDS["audio_eos_token"]]
    with serving(cloud, VOCAB) as (_, address):
        line = line_to(address)
        for i, way in enumerate(WAYS.values()):
            prompt = Prompt(tokens=[1, *heard, 2, 3], audio=sound(i, 31))
            found = split(CachedLM(edge, vocab=VOCAB), line, way, f"s{i}", prompt)
            local = CachedLM(edge, vocab=VOCAB), CachedLM(cloud, vocab=VOCAB)
            assert same(found, together(*local, prompt, way, ENDING, Luck(5, f"s{i}")))
        line.close()


def test_a_sample_the_cloud_cannot_do_fails_with_its_sentence_and_the_next_one_runs() -> None:
    edge, cloud = models()
    with serving(cloud, VOCAB) as (_, address):
        line = line_to(address)
        with pytest.raises(UserError, match="hears no audio"):
            deaf = remote(line, WAYS["greedy"])
            deaf.reset(Prompt(tokens=[1], audio=sound(1, 9)), Luck(0, "x"))
            deaf.judge([], [], [], 4)
        assert split(CachedLM(edge), line, WAYS["greedy"], "p0", PROMPTS["p0"]).tokens
        assert line.loss is None
        line.close()


# --- what a server refuses


def raw(address: str, *messages: bytes, token: str | None = None) -> grpc.StatusCode | None:
    """Send bytes as they are; the status that ends the stream, None if all went well."""
    with grpc.insecure_channel(address, (("grpc.enable_http_proxy", 0),)) as channel:
        metadata = (("edgecloud-token", token),) if token else ()
        try:
            list(channel.stream_stream(METHOD)(iter(messages), metadata=metadata, timeout=60))
        except grpc.RpcError as error:
            return error.code()  # type: ignore[no-any-return]
    return None


OPEN = pack(Open(version=1))


@pytest.mark.parametrize(
    "messages",
    [
        [b"no message"],
        [b""],
        [pack(Open(version=2))],
        [pack(judge())],  # before Open
        [OPEN, OPEN],
        [OPEN, b"no message"],
        [OPEN, pack(begin(tokens=(VOCAB,)))],
        [OPEN, pack(begin(tokens=(-1,)))],
        [OPEN, pack(begin()), pack(judge(known=1))],
        [OPEN, pack(begin()), pack(judge(known=0, drafted=(VOCAB, 1)))],
        [OPEN, pack(begin()), pack(judge(known=0, new=(VOCAB,)))],
        [OPEN, pack(begin(verification="lossless", temperature=1.0)), pack(judge(known=0))],  # without its q
        [OPEN, pack(begin(verification="ensemble")), pack(judge(known=0, q=((b"", b"\0" * 8),)))],
    ],
)
def test_a_message_that_cannot_be_is_refused_and_logged_once(
    messages: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(models()[1], VOCAB) as (server, address), caplog.at_level(logging.WARNING):
        assert raw(address, *messages) is grpc.StatusCode.INVALID_ARGUMENT
        until(lambda: not server.guests)
        assert raw(address, OPEN, pack(begin()), pack(judge(known=0))) is None  # it goes on serving
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "refused" in caplog.text


def test_a_message_too_large_is_refused() -> None:
    with serving(models()[1], VOCAB, max_message_mb=0.01) as (server, address):
        large = pack(begin(tokens=(1,) * 20_000))
        assert raw(address, OPEN, large) is grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: not server.guests)
        assert raw(address, OPEN) is None


@pytest.mark.parametrize("token", [None, "wrong", "secret "])
def test_without_the_token_nothing_is_answered(token: str | None) -> None:
    with serving(models()[1], VOCAB, token="secret") as (server, address):
        with pytest.raises(UserError, match="token is missing or wrong"):
            line_to(address, token=token)
        assert not server.guests
        line_to(address, token="secret").close()


def test_sessions_are_bounded_and_free_places_are_taken_again() -> None:
    with serving(models()[1], VOCAB, max_sessions=2) as (server, address):
        first, second = line_to(address), line_to(address)
        with pytest.raises(UserError, match="all 2 sessions are taken"):
            line_to(address)
        first.close()
        until(lambda: len(server.guests) == 1)
        third = line_to(address)
        assert split(CachedLM(models()[0]), third, WAYS["greedy"], "p0", PROMPTS["p0"]).tokens
        assert third.loss is None
        for line in (second, third):
            line.close()
        until(lambda: not server.guests)


def test_a_silent_session_is_ended_and_begins_again_at_the_next_sample() -> None:
    with serving(models()[1], VOCAB, idle_s=0.3) as (server, address):
        line = line_to(address)
        until(lambda: not server.guests)
        out = split(CachedLM(models()[0]), line, WAYS["greedy"], "p0", PROMPTS["p0"])
        assert line.loss is None and out.counters.rounds > 0
        line.close()


CLIENT = f"""
import sys, time, grpc
channel = grpc.insecure_channel(sys.argv[1], (("grpc.enable_http_proxy", 0),))
def said():
    yield bytes.fromhex(sys.argv[2])
    time.sleep(600)
for _ in channel.stream_stream({METHOD!r})(said()):
    print("in", flush=True)
"""


def test_the_session_of_a_killed_client_is_cleaned_up() -> None:
    with serving(models()[1], VOCAB, max_sessions=1) as (server, address):
        command = [sys.executable, "-c", CLIENT, address, OPEN.hex()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None and client.stdout.readline() == "in\n"
            assert len(server.guests) == 1
            client.kill()
        until(lambda: not server.guests)
        line_to(address).close()  # its place, and its slot in the batch, are free


def test_a_port_in_use_and_an_open_house_cost_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGECLOUD_TOKEN", raising=False)
    with serving(models()[1], VOCAB) as (server, address), pytest.raises(UserError, match="Cannot listen"):
        CloudServer(server.card, server.lease, server.limits, None).start("127.0.0.1", int(address.split(":")[1]))
    assert main(["--host", "0.0.0.0"]) == 2
    assert main(["--port", "70000"]) == 2
    assert main(["models=nothing_like_it"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "set a secret in EDGECLOUD_TOKEN" in said[0], said


# --- what an edge checks


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokenizer": "other"}, "its tokenizer"),
        ({"vocab": VOCAB + 1}, f"it has {VOCAB + 1} tokens, the edge {VOCAB}"),
        ({"hears": False}, "hears no audio"),
        ({"revision": "other"}, "other weights"),
        ({"dtype": "bfloat16"}, "computes in bfloat16, not in float32"),
        ({}, None),
    ],
)
def test_another_cloud_than_was_asked_for_is_refused(changes: dict[str, Any], complaint: str | None) -> None:
    spec, words = ModelConfig(source="zoo", id="omni_tiny/cloud"), tokenizer()
    asked = {"tokenizer": tokenizer_digest(words), "revision": revision(spec), "hears": True}
    check = expecting(spec, "float32", words, vocab=VOCAB, hears=True)
    if complaint is None:
        check(card(VOCAB, **asked))
        return
    with pytest.raises(UserError, match=complaint):
        check(card(**{"vocab": VOCAB} | asked | changes))


@pytest.mark.parametrize(
    "options",
    [{"method": "cloud"}, {"drafter": "lookup", "gate": "always"}, {"cloud_address": "localhost"}, {"batch_size": 2}],
)
def test_what_cannot_be_split_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="task"):
        SpecDecConfig(transport="grpc", **options)
    SpecDecConfig(transport="grpc")


# --- a cloud that is lost


class DyingServer(CloudServer):
    """Ends every session after `lives` rounds, as a crash would."""

    lives = 3

    def _talk(self, requests: Iterator[bytes], guest: Guest) -> Iterator[bytes]:
        for said, answer in enumerate(super()._talk(requests, guest)):
            if said > self.lives:
                guest.context.cancel()
            yield answer


def test_a_lost_cloud_costs_the_rest_of_the_sentence_and_no_more() -> None:
    edge, cloud = models()
    way = WAYS["greedy"]
    with serving(cloud, VOCAB, kind=DyingServer) as (_, address):
        line = line_to(address)
        for name, prompt in PROMPTS.items():
            wanted = together(CachedLM(edge), CachedLM(cloud), prompt, way, ENDING, Luck(5, name))
            found = split(CachedLM(edge), line, way, name, prompt)
            if wanted.counters.rounds <= DyingServer.lives:
                assert same(found, wanted)
                line.close()  # the next one begins a session of its own
                continue
            assert line.loss is not None and f"The cloud at {address} is lost" in line.loss.sentence
            at = line.loss.at_token
            assert 0 < at < len(found.tokens)  # it connected again for each sample
            assert found.tokens[:at] == wanted.tokens[:at] and found.sources[:at] == wanted.sources[:at]
            assert set(found.sources[at:]) == {"edge"} and "edge" not in found.sources[:at]
            assert found.counters.rounds == DyingServer.lives + 1  # the last call is the one nobody answered
            assert line.costs()["lost_at"] == at
        line.close()


class SilentServer(CloudServer):
    """Takes sessions and then says nothing, as a hung machine would."""

    def _talk(self, requests: Iterator[bytes], guest: Guest) -> Iterator[bytes]:
        yield next(super()._talk(requests, guest))
        list(requests)


def test_a_cloud_that_hangs_is_lost_after_the_time_out() -> None:
    with serving(models()[1], VOCAB, kind=SilentServer) as (_, address):
        line = line_to(address)
        line.timeout_s = 0.2
        out = split(CachedLM(models()[0]), line, WAYS["greedy"], "p0", PROMPTS["p0"])
        assert line.loss is not None and "no answer within task.cloud_timeout_s=0.2" in line.loss.sentence
        assert line.loss.at_token == 0 and set(out.sources) == {"edge"}


def test_a_cloud_killed_in_the_middle_of_a_sample(pair: TinyPair, tmp_path: Path) -> None:
    edge, way, ending = CachedLM(models()[0]), WAYS["greedy"], Ending(max_new_tokens=40)
    with process(*pair.arguments, log=tmp_path / "log") as (child, address):
        line = line_to(address)

        def kill(token: int, source: str) -> None:
            if source in ("corrected", "bonus") and child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.wait()

        out = split(edge, line, way, "p0", PROMPTS["p0"], ending=ending, on_token=kill)
        assert line.loss is not None and 0 < line.loss.at_token < 40 == len(out.tokens)
        assert "is lost: nobody answers" in line.loss.sentence
        assert set(out.sources[line.loss.at_token :]) == {"edge"}
        out = split(edge, line, way, "p1", PROMPTS["p1"], ending=ending)  # nobody to connect to
        assert line.loss.at_token == 0 and set(out.sources) == {"edge"} and out.counters.rounds == 0
        with pytest.raises(CloudLost, match="nobody answers"):
            split(edge, line, way, "p1", PROMPTS["p1"], ending=ending, fall_back=False)


# --- as a user types it


def test_a_job_over_two_processes_is_the_job_of_one(
    here: Here, pair: TinyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLOUD_TOKEN", "hush-hush")
    asked = [*pair.arguments, "task.verification=lossless", "task.gate=always"]
    wanted = {t: read_rows(here.job(*asked, f"task.temperature={t}")) for t in (0, 1)}
    with process(*asked, log=tmp_path / "log") as (child, address):
        for temperature, rows in wanted.items():
            folder = here.job(
                *asked, f"task.temperature={temperature}", "task.transport=grpc", f"task.cloud_address={address}"
            )
            found = read_rows(folder)
            assert [row["tokens"] for row in found] == [row["tokens"] for row in rows]
            assert [row["counters"] for row in found] == [row["counters"] for row in rows]
            record = read_record(folder)
            assert record["metrics"]["cloud_losses"]["value"] == record["metrics"]["tokens_after_loss"]["value"] == 0
            assert record["metrics"]["cloud_wait_ms"]["value"] > 0
            assert record["facts"]["models"]["cloud"]["notes"] == ["another process, over gRPC"]
            assert "hush" not in (folder / "record.json").read_text()
        other = here(*asked, "task.transport=grpc", f"task.cloud_address={address}", "models.cloud.dtype=bfloat16")
        assert other.code != 0 and "computes in float32, not in bfloat16" in other.out + other.err
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    for on_loss in ("fallback", "fail"):
        down = here(
            *asked, "task.transport=grpc", f"task.cloud_address={address}", f"task.on_cloud_loss={on_loss}", "seed=1"
        )
        assert down.code != 0 and f"The cloud at {address} is lost: nobody answers" in down.out + down.err
        assert "Traceback" not in down.out + down.err
    log = (tmp_path / "log").read_text()
    assert "stopped" in log and "Traceback" not in log


def test_the_embedded_pair_hears_the_same_over_a_socket(here: Here) -> None:
    asked = ["dataset.max_samples=2", "hardware.dtype=float32", "task.cloud_hardware.dtype=float32", "task.warmup=0"]
    asked += ["task.verification=lossless", "task.gate=always"]
    server = open_server(composed(asked), Limits(), None)
    address = f"127.0.0.1:{server.start('127.0.0.1', 0)}"
    try:
        for temperature in (0, 1):
            one, two = (
                read_rows(here.job(*asked, f"task.temperature={temperature}", *more))
                for more in ([], ["task.transport=grpc", f"task.cloud_address={address}"])
            )
            assert [row["tokens"] for row in one] == [row["tokens"] for row in two]
            assert [row["counters"] for row in one] == [row["counters"] for row in two]
    finally:
        server.stop(0)


@pytest.mark.parametrize("on_loss", ["fallback", "fail"])
def test_a_loss_stands_in_the_row_and_in_the_record(on_loss: str, here: Here, pair: TinyPair) -> None:
    asked = [*pair.arguments, "task.verification=lossless", "task.gate=always", "task.warmup=0"]
    whole = open_server(composed(asked), Limits(), None)
    server = DyingServer(whole.card, whole.lease, whole.limits, None)
    address = f"127.0.0.1:{server.start('127.0.0.1', 0)}"
    try:
        remote_ = ["task.transport=grpc", f"task.cloud_address={address}", f"task.on_cloud_loss={on_loss}"]
        answer = here(*asked, *remote_)
        (folder,) = [path.parent for path in here.folder.rglob("record.json")]
        rows, record = read_rows(folder), read_record(folder)
        if on_loss == "fail":
            lost = [row for row in rows if row["status"] == "failed"]
            assert lost and all("is lost" in row["error"] for row in lost)
            return
        lost = [row for row in rows if row["cloud_loss"]]
        assert answer.code == 0 and lost
        assert record["metrics"]["cloud_losses"]["value"] == len(lost)
        after = sum(len(row["tokens"]) - row["cloud_loss"]["at_token"] for row in lost)
        assert record["metrics"]["tokens_after_loss"]["value"] == after > 0
    finally:
        server.stop(0)
