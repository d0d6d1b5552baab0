"""Vectors computed once, and three retrievers that find what they should, in an order that never changes."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from argo import chroma
from argo.chroma import Chroma
from argo.corpus import Passage
from argo.embed import Embedder, Vectors
from argo.questions import Question
from argo.retrieve import Bm25, Exact, Hit, best, open_retriever, recall_at
from argo.schema import ArgoConfig
from suite.config import RunConfig
from suite.errors import UserError
from suite.models import loading
from suite.models.quiet import quiet
from suite.models.spec import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "the",
    "radio",
    "unit",
    "sends",
    "samples",
    "to",
    "over",
    "fronthaul",
    "while",
    "control",
    "plane",
    "e2",
    "xapp",
]
WINDOW = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """A BERT of a few thousand random weights that knows the words above."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    torch.manual_seed(5)
    vocab = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=WINDOW,
        initializer_range=0.5,
    )
    with quiet():
        BertModel(config).save_pretrained(folder)
    return ModelConfig(source="path", id=str(folder))


@pytest.fixture
def config(model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "cache"))
    return RunConfig(models={"embedder": model}, task=ArgoConfig())


def texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of 1 to 16 words."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(" ".join(rng.choice(WORDS, rng.integers(1, 17))))
    return list(found)


def corpus(count: int) -> list[Passage]:
    return [Passage(id=f"p{i:03d}", title="", text=text) for i, text in enumerate(texts(count))]


def no_model(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("the model was asked although the store has everything")


def test_vectors_are_masked_means_of_unit_length_whatever_else_is_in_the_batch(config: RunConfig) -> None:
    asked = [*texts(90), "the radio unit", "words nobody knows", "the radio unit"]
    found = Embedder(config).embed(asked)
    assert found.shape == (93, 16) and found.dtype == np.float32
    bert: Any = BertModel.from_pretrained(config.models["embedder"].id)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.models["embedder"].id)
    for text, vector in zip(asked, found, strict=True):
        with torch.inference_mode():  # alone, so without padding
            mean = bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert (found[90] == found[92]).all()
    assert Embedder(config).embed([]).shape[0] == 0


def test_a_text_longer_than_the_window_is_cut_there(config: RunConfig) -> None:
    long, cut = Embedder(config).embed(["radio " * 3 * WINDOW, "radio " * WINDOW])
    np.testing.assert_allclose(long, cut, atol=1e-5)


def test_what_is_stored_is_not_computed_again(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = texts(1200)  # more than one statement looks up
    first = Embedder(config).embed(asked)
    monkeypatch.setattr(loading, "load", no_model)
    assert (Embedder(config).embed(asked) == first).all()
    with pytest.raises(AssertionError, match="the model was asked"):
        Embedder(config).embed([*asked, "a new one"])


def test_only_the_new_texts_are_computed(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    Embedder(config).embed(["radio", "unit"])
    computed: list[str] = []
    real = Embedder._computed

    def seen(self: Embedder, new: Sequence[str]) -> Vectors:
        computed.extend(new)
        return real(self, new)

    monkeypatch.setattr(Embedder, "_computed", seen)
    Embedder(config).embed(["unit", "plane", "radio", "plane", "control"])
    assert computed == ["plane", "control"]


def test_writers_at_the_same_time_agree_on_what_was_stored_first(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, together = [f"text {i}" for i in range(300)], threading.Barrier(4)

    def fake(number: int) -> Embedder:
        def computed(new: Sequence[str]) -> Vectors:
            together.wait(10)
            return np.full((len(new), 4), number, np.float32)

        embedder = Embedder(config)
        monkeypatch.setattr(embedder, "_computed", computed)
        return embedder

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(lambda embedder: embedder.embed(asked), [fake(number) for number in range(4)])
    assert all((other == first).all() for other in others)
    assert len(np.unique(first)) == 1


def test_another_precision_has_a_store_of_its_own(config: RunConfig, model: ModelConfig) -> None:
    half = RunConfig(models={"embedder": ModelConfig(source="path", id=model.id, dtype="bfloat16")})
    one, other = Embedder(config).embed(["radio unit"]), Embedder(half).embed(["radio unit"])
    assert np.abs(one - other).max() > 1e-4


def test_an_embedder_that_is_not_there_costs_a_sentence(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"models\.embedder is not configured; .*task\.retriever=bm25"):
        Embedder(RunConfig(models={}))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="the store of embeddings .* cannot be used"):
        Embedder(config, tmp_path / "file").embed(["radio"])


SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5 + 1e-9, 1.0, -1.0]), min_size=1, max_size=30)


@given(scores=SCORES, depth=st.integers(1, 40))
def test_best_is_a_sort_with_ties_by_id(scores: list[float], depth: int) -> None:
    ids = [f"{i:02d}" for i in range(len(scores))]
    wanted = sorted((-round(score, 6), name) for name, score in zip(ids, scores, strict=True))[:depth]
    assert best(ids, np.array(scores), depth) == [Hit(id=name, score=-score) for score, name in wanted]


def test_exact_compares_with_every_passage(config: RunConfig) -> None:
    passages, queries = corpus(60), texts(300, seed=1)
    found = Exact(passages[::-1], Embedder(config)).search(queries, 7)
    vectors, asked = (Embedder(config).embed(some) for some in ([passage.text for passage in passages], queries))
    for hits, query in zip(found, asked, strict=True):
        cosines = {passage.id: float(np.dot(query, row)) for passage, row in zip(passages, vectors, strict=True)}
        assert [hit.score for hit in hits] == pytest.approx(sorted(cosines.values(), reverse=True)[:7], abs=2e-6)
        assert [cosines[hit.id] for hit in hits] == pytest.approx([hit.score for hit in hits], abs=2e-6)


def test_titles_count(config: RunConfig) -> None:
    passages = [Passage(id="a", title="", text="control plane"), Passage(id="b", title="xapp", text="control plane")]
    assert [hit.id for hit in Bm25(passages).search(["xapp"], 2)[0]] == ["b"]
    assert Exact(passages, Embedder(config)).search(["xapp\ncontrol plane"], 1)[0][0] == Hit(id="b", score=1.0)


def test_bm25_is_lucenes_formula() -> None:
    passages = corpus(40)
    split = {passage.id: [word for word in passage.text.split() if word not in ("the", "to")] for passage in passages}
    mean = sum(map(len, split.values())) / len(split)
    query = ["radio", "unit", "xapp"]

    def score(words: list[str]) -> float:
        total = 0.0
        for word in query:
            having = sum(word in other for other in split.values())
            rarity = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
            often = words.count(word)
            total += rarity * often / (often + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        return total

    wanted = sorted(((-score(words), name) for name, words in split.items() if score(words) > 0))[:5]
    (hits,) = Bm25(passages).search(["Radio: the unit, XAPP?"], 5)
    assert [hit.score for hit in hits] == pytest.approx([-negative for negative, _ in wanted], abs=1e-5)
    assert {hit.id for hit in hits[:3]} == {name for _, name in wanted[:3]}


def test_bm25_tells_single_letters_apart_finds_nothing_in_nothing_and_says_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    planes = [Passage(id=f"{plane}", title="", text=f"The {plane}-plane of a radio") for plane in "UCSM"]
    hits = Bm25(planes).search(["what is the C-plane", "S-plane", "", "the of", "quantum chess"], 1)
    assert [[hit.id for hit in found] for found in hits] == [["C"], ["S"], [], [], []]
    assert Bm25(planes).search([], 3) == []
    assert capfd.readouterr() == ("", "") and caplog.messages == []


def test_chroma_finds_what_exact_finds(config: RunConfig) -> None:
    passages, queries, embedder = corpus(300), texts(80, seed=1), Embedder(config)
    ours, theirs = Exact(passages, embedder).search(queries, 10), Chroma(passages, embedder).search(queries, 10)
    assert [[hit.id for hit in hits] for hits in theirs] == [[hit.id for hit in hits] for hits in ours]
    assert [hit.score for hits in theirs for hit in hits] == pytest.approx(
        [hit.score for hits in ours for hit in hits], abs=5e-6
    )


def test_chroma_breaks_ties_by_id_and_gives_no_more_than_there_is(config: RunConfig) -> None:
    passages = [Passage(id=name, title="", text="radio unit") for name in "cabd"]  # an equal vector four times
    index = Chroma(passages, Embedder(config))
    assert [[hit.id for hit in hits] for hits in index.search(["radio", "unit"], 50)] == [list("abcd")] * 2
    assert index.search([], 3) == []
    assert index._collection._client.get_settings().anonymized_telemetry is False

    class FakeCollection:
        def query(self, **_options: Any) -> dict[str, Any]:
            return {"ids": [["c", "a", "b"]], "distances": [[0.5, 0.5, 0.25]]}

    index._collection = FakeCollection()
    assert index.search(["radio"], 3) == [[Hit(id="b", score=0.75), Hit(id="a", score=0.5), Hit(id="c", score=0.5)]]


def test_an_index_is_built_once_and_a_changed_corpus_has_another(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, embedder = corpus(12), Embedder(config)
    home = tmp_path / "cache" / "argo" / "chroma"
    before = Chroma(passages, embedder).search(["radio"], 3)
    new = "xapp over xapp over plane"
    (first,) = (path for path in home.iterdir() if path.is_dir())
    changed = [*passages[:-1], Passage(id=passages[-1].id, title="", text=new)]
    assert [hit.id for hit in Chroma(changed, embedder).search([new], 1)[0]] == ["p011"]
    assert len([path for path in home.iterdir() if path.is_dir()]) == 2 and first.exists()

    monkeypatch.setattr(chroma, "_build", no_model)
    assert Chroma(passages[::-1], embedder).search(["radio"], 3) == before
    with pytest.raises(AssertionError):
        Chroma(passages[1:], embedder)


def test_an_index_that_was_killed_while_it_was_built_is_built_again(config: RunConfig, tmp_path: Path) -> None:
    passages, embedder, home = corpus(5), Embedder(config), tmp_path / "indexes"
    reference = Chroma(passages, embedder).search(["radio"], 5)
    (name,) = (path.name for path in (tmp_path / "cache" / "argo" / "chroma").iterdir() if path.is_dir())
    (home / f"{name}.partial" / name).mkdir(parents=True)
    (home / f"{name}.partial" / name / "chroma.sqlite3").write_text("half")
    assert Chroma(passages, embedder, home).search(["radio"], 5) == reference
    assert not (home / f"{name}.partial").exists()


def test_an_index_that_is_not_whole_is_refused(config: RunConfig, tmp_path: Path) -> None:
    passages, embedder = corpus(5), Embedder(config)
    path = tmp_path / "index"
    chroma._build(path, passages[:4], embedder)
    with pytest.raises(UserError, match=r"the index .* holds 4 passages, not 5; delete it: it is built again"):
        chroma._opened(path, 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the index .* cannot be opened .*delete it: it is built again"):
        chroma._opened(tmp_path / "empty", 5)


OPENING = """
import sys
from argo.chroma import Chroma
from argo.corpus import Passage
from argo.embed import Embedder
from suite.config import RunConfig
from suite.models.spec import ModelConfig
passages = [Passage(id=f"p{i}", title="", text=text) for i, text in enumerate(sys.argv[2:])]
config = RunConfig(models={"embedder": ModelConfig(source="path", id=sys.argv[1])})
print([hit.id for hits in Chroma(passages, Embedder(config)).search(sys.argv[2:4], 3) for hit in hits])
print("torch" in sys.modules)
"""


def test_processes_that_open_at_the_same_time_build_one_index_and_load_no_model(
    config: RunConfig, tmp_path: Path
) -> None:
    known = texts(30)
    Embedder(config).embed(known)
    command = [sys.executable, "-W", "error", "-c", OPENING, config.models["embedder"].id, *known]
    pipes: dict[str, Any] = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    said = [process.communicate() for process in [subprocess.Popen(command, **pipes) for _ in range(3)]]
    assert {errors for _, errors in said} == {""}
    assert len({answer for answer, _ in said}) == 1
    assert re.fullmatch(r"\['p0', .*\]\nFalse\n", said[0][0])
    assert len([path for path in (tmp_path / "cache" / "argo" / "chroma").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(("kind", "type_"), [("bm25", Bm25), ("exact", Exact), ("chroma", Chroma)])
def test_the_retriever_is_the_one_that_was_asked_for(config: RunConfig, kind: str, type_: type) -> None:
    asked = RunConfig(task=ArgoConfig(retriever=kind), models=config.models)
    retriever = open_retriever(asked, corpus(8))
    assert type(retriever) is type_ and retriever.identity["kind"] == kind
    other = open_retriever(asked, corpus(7))
    assert other.identity != retriever.identity == open_retriever(asked, corpus(8)[::-1]).identity
    with pytest.raises(UserError, match="there is no passage to retrieve"):
        open_retriever(asked, [])


class FakeRetriever:
    """Finds p0, p1, p2 ... for every query."""

    identity: dict[str, Any] = {}

    def search(self, queries: Sequence[str], depth: int) -> list[list[Hit]]:
        return [[Hit(id=f"p{i}", score=1.0) for i in range(depth)] for _ in queries]


def test_recall_is_the_share_of_all_supporting_passages() -> None:
    supported = [("p0",), ("p0", "p3"), ("p5", "p6", "p7"), ()]
    questions = [Question(id=str(i), question="?", supporting=names) for i, names in enumerate(supported)]
    assert [recall_at(k, FakeRetriever(), questions).value for k in (1, 4, 10)] == pytest.approx([2 / 6, 3 / 6, 1.0])
    assert recall_at(4, FakeRetriever(), questions).n == 3
    low, high = recall_at(4, FakeRetriever(), questions).ci95 or (0, 0)
    assert 0 <= low < 0.5 < high <= 1
    assert recall_at(1, FakeRetriever(), questions[3:]).value is None


def test_retrieval_is_imported_without_torch_or_chroma() -> None:
    heavy = "{'torch', 'transformers', 'chromadb', 'bm25s', 'pandas'}"
    code = f"import sys, argo.retrieve; print({heavy} & sys.modules.keys() or 'light')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "light\n", done.stdout + done.stderr
