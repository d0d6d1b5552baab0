"""The training text of the draft: shards the teacher writes, one file each, so that a killed build goes on.

Of four shards, two are free conversations (the teacher asks and answers), two answer requests of `requests.py` over
passages taken from the shard two places before. Shard `i` depends on `i` alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.smol_draft.requests import request
from zoo.smol_draft.teacher import Row, Teacher, write

ROWS, LENGTH = 256, 256  # conversations a shard, tokens a conversation
GREEDY_SHARE = 0.8


def opening(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens before the user's words, and those between them and the answer, read off the chat template."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "\x00"}], add_generation_prompt=True, tokenize=False
    )
    before, after = text.split("\x00")
    return tokenizer.encode(before), tokenizer.encode(after)


def answers(shard: Path, tokenizer: Any) -> list[str]:
    """The first sentences of each answer in a shard, for use as passages."""
    data = np.load(shard)
    _, bridge = opening(tokenizer)
    found = []
    for tokens, n in zip(data["tokens"], data["written"], strict=True):
        text = tokenizer.decode(tokens[:n].tolist())
        answer = text.rsplit(tokenizer.decode(bridge), 1)[-1].removesuffix(tokenizer.eos_token)
        sentences = answer.strip().split(". ")
        passage = ". ".join(sentences[: 2 + n % 3]).strip()
        if 80 <= len(passage) <= 600:
            found.append(passage.rstrip(".") + ".")
    return found or ["Bread is made from flour, water, salt and yeast."]


def write_shard(teacher: Teacher, tokenizer: Any, folder: Path, index: int) -> Path:
    """Write shard `index` unless it is there; returns its path."""
    path = folder / f"{index:05d}.npz"
    if path.exists():
        return path
    rng = np.random.default_rng(index)
    before, bridge = opening(tokenizer)
    if index % 4 < 2:
        prompts = [(before, True)] * ROWS
    else:
        passages = answers(write_shard(teacher, tokenizer, folder, index - 2), tokenizer)
        texts = [request(rng, passages) for _ in range(ROWS)]
        prompts = [(before + tokenizer.encode(text) + bridge, False) for text in texts]
        prompts = [(tokens, ask) for tokens, ask in prompts if len(tokens) < LENGTH - 24]
    rows = [Row(tokens, ask, greedy=bool(rng.random() < GREEDY_SHARE)) for tokens, ask in prompts]
    with torch.inference_mode():
        tokens, written, ids, logprobs = write(teacher, rows, LENGTH, bridge, tokenizer.eos_token_id, seed=index)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(file, tokens=tokens, written=written, ids=ids, logprobs=logprobs)
    partial.replace(path)
    return path
