"""What is asked: text prompts from a JSON Lines file, or speech clips from a manifest, one `Sample` each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecloud.instructions import instruction
from edgecloud.manifest import Item, Manifest, read_manifest
from edgecloud.schema import PromptsConfig, VoicesConfig
from suite.errors import UserError
from suite.strict_json import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One prompt.

    Attributes:
        id: unique in the file.
        prompt: the user's words; with a clip, what to do with it.
        clip: the audio file the words are about, None for text alone.
        references: right answers, written by people; may be empty.
        category: kind of work, or the clip's emotion; empty when not given.
        problem: why the row cannot be used, None when it can.
    """

    id: str
    prompt: str = ""
    clip: Path | None = None
    references: tuple[str, ...] = ()
    category: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The samples of a run and what their scores need to know of all the others.

    Attributes:
        samples: those to decode.
        corpus: references of every item of the data set that has any, for CIDEr-D's IDF.
        emotions: emotion -> words that name it; empty where the data set does not say.
    """

    samples: list[Sample]
    corpus: list[tuple[str, ...]]
    emotions: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_data(dataset: PromptsConfig | VoicesConfig) -> DataSet:
    """The data set of a run. A broken item becomes a sample with a `problem`: it is counted, not dropped.

    Raises:
        UserError: the file as a whole is broken or empty.
    """
    if isinstance(dataset, PromptsConfig):
        samples = read_prompts(dataset.file(), None)
        corpus = [sample.references for sample in samples if sample.references]
        return DataSet(samples=samples[: dataset.max_samples], corpus=corpus)
    words = instruction(dataset.caption_type, dataset.language, dataset.prompt_type)
    if dataset.audio is not None:
        clip = Path(dataset.audio).expanduser()
        return DataSet(samples=[Sample(id=clip.name, prompt=words, clip=clip)], corpus=[])
    manifest = read_manifest(dataset.file())
    captions = (item.references(dataset.caption_type, dataset.language) for item in manifest.items)
    return DataSet(
        samples=[_voice(manifest, item, dataset, words) for item in manifest.items[: dataset.max_samples]],
        corpus=[texts for texts in captions if texts],
        emotions=manifest.emotions,
    )


def _voice(manifest: Manifest, item: Item, dataset: VoicesConfig, words: str) -> Sample:
    references = item.references(dataset.caption_type, dataset.language)
    try:
        clip = manifest.clip(item)
        if not references:
            raise UserError(
                f"{manifest.path.name}, {item.id}: no {dataset.language} captions of type {dataset.caption_type!r}; "
                "add them, or choose another dataset.language or dataset.caption_type."
            )
    except UserError as error:
        return Sample(id=item.id, problem=str(error))
    return Sample(id=item.id, prompt=words, clip=clip, references=references, category=item.emotion)


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
        row = parse(line)
    except ValueError as error:
        return Sample(id=where, problem=f"{where}: not JSON ({error}); mend or delete the line.")
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        return Sample(id=where, problem=f'{where}: no text under "prompt"; each row needs one.')
    references = row.get("references", [])
    if not isinstance(references, list) or not all(isinstance(text, str) and text.strip() for text in references):
        return Sample(id=where, problem=f'{where}: "references" must be a list of texts, empty if there is none.')
    return Sample(
        id=str(row.get("id", where)),
        prompt=row["prompt"],
        references=tuple(references),
        category=str(row.get("category", "")),
    )


def encode(sample: Sample, tokenizer: Any) -> list[int]:
    """Token ids of the chat turn that asks for an answer to a text; the bare text where there is no chat template.

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
