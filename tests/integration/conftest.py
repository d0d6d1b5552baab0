"""A random pair of models with prompts for them, and launch.py in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import WORDS, Here, TinyPair, write_prompts


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """An edge that agrees with its cloud mostly, not always."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    from suite.models.quiet import quiet
    from tests import tiny

    folder = tmp_path_factory.mktemp("pair")
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    cloud = tiny.llama(1)
    with quiet():
        for name, model in (("cloud", cloud), ("edge", tiny.related(cloud, 2, noise=0.15))):
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    write_prompts(folder / "prompts.jsonl", 6)
    return TinyPair(folder=folder)


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield Here(tmp_path, capsys, monkeypatch)
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
