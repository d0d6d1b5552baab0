"""Text prompts from a JSON Lines file, turned into token ids by the model's own chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One prompt.

    Attributes:
        id: unique in the file.
        prompt: the user's words.
        references: right answers, written by people; may be empty.
        category: kind of work, empty when not given.
        problem: why the row cannot be used, None when it can.
    """

    id: str
    prompt: str = ""
    references: tuple[str, ...] = ()
    category: str = ""
    problem: str | None = None


def read_prompts(path: Path, max_samples: int | None) -> list[Sample]:
    """The first `max_samples` rows. A broken row becomes a sample with a `problem`: it is counted, not dropped.

    Raises:
        UserError: the file has no rows.
    """
    samples: list[Sample] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), start=1):
        if line.strip():
            sample = _sample(line, f"{path.name}, line {number}")
            if sample.id in seen:
                problem = f"{path.name}, line {number}: the id {sample.id!r} is taken; give each row its own."
                sample = Sample(id=f"{sample.id} (line {number})", problem=problem)
            seen.add(sample.id)
            samples.append(sample)
        if len(samples) == max_samples:
            break
    if not samples:
        raise UserError(f"dataset.path={path} has no rows; each line must be a JSON object with id and prompt.")
    return samples


def _sample(line: str, where: str) -> Sample:
    try:
        row = json.loads(line)
    except ValueError as error:
        return Sample(id=where, problem=f"{where}: not JSON ({error}); mend or delete the line.")
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        return Sample(id=where, problem=f'{where}: no text under "prompt"; each row needs one.')
    references = row.get("references", [])
    if not isinstance(references, list) or not all(isinstance(text, str) and text for text in references):
        return Sample(id=where, problem=f'{where}: "references" must be a list of texts, empty if there is none.')
    return Sample(
        id=str(row.get("id", where)),
        prompt=row["prompt"],
        references=tuple(references),
        category=str(row.get("category", "")),
    )


def encode(sample: Sample, tokenizer: Any) -> list[int]:
    """Token ids of the chat turn that asks for an answer; the bare text where the tokenizer has no chat template.

    Raises:
        UserError: the row was broken, or the tokenizer knows none of its words.
    """
    if sample.problem:
        raise UserError(sample.problem)
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": sample.prompt}]
        return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"])
    tokens = list(tokenizer(sample.prompt)["input_ids"])
    if not tokens:
        raise UserError(
            f"The model's tokenizer makes nothing of the prompt of {sample.id}; write it in words it knows."
        )
    return tokens
