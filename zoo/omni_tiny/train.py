"""Train a thinker: first its ears alone, on what can be heard, then the whole model on captions.

The ears (audio tower) learn emotion, intensity, pace, loudness, pitch, gender, topic and language of a clip from the
average and the maximum of its audio embeddings; without this start the decoder learns the grammar, finds the audio
useless, and stays there. The same heads keep a small share of the loss afterwards and are then thrown away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecloud.instructions import CAPTION_TYPES, LANGUAGES, PROMPT_TYPES, instruction
from suite.rng import generator
from zoo.omni_tiny import corpus
from zoo.omni_tiny.captions import caption
from zoo.omni_tiny.model import ASKED

log = logging.getLogger(__name__)

BATCH, CAPTIONS = 32, 1  # clips a step, and captions of each
AUXILIARY = 0.3
SAVE_EVERY = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long each stage takes; one step is `BATCH` clips."""

    ears: int
    whole: int
    peak_lr: float


class Ears(nn.Module):
    """The heads that say what an audio embedding must contain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(2 * width, n) for n in corpus.LABELS.values()])

    def forward(self, audio: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over the heads, and the share each gets right; audio is (sum of lengths, width)."""
        parts = torch.split(audio, lengths.tolist())
        pooled = torch.stack([torch.cat([part.mean(0), part.amax(0)]) for part in parts])
        logits = [head(pooled) for head in self.heads]
        loss = sum(F.cross_entropy(x, y) for x, y in zip(logits, labels.T, strict=True))
        right = torch.stack([(x.argmax(-1) == y).float().mean() for x, y in zip(logits, labels.T, strict=True)])
        return loss / len(logits), right


def hear(model: Any, mels: list[np.ndarray], augment: np.random.Generator | None) -> tuple[Tensor, Tensor]:
    """Audio embeddings (sum of lengths, width) of a batch of log-mel features, and their lengths."""
    if augment is not None:
        mels = [_augmented(mel, augment) for mel in mels]
    frames = torch.tensor([mel.shape[1] for mel in mels])
    packed = torch.from_numpy(np.concatenate(mels, axis=1).astype(np.float32)).to(model.device)
    tower = model.model.audio_tower
    _, lengths = tower._get_feat_extract_output_lengths(frames)
    return tower(packed, feature_lens=frames.to(model.device)).last_hidden_state, lengths


def _augmented(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment (Park et al. 2019, arXiv:1904.08779) with a shift of a bin or two, another mouth or microphone."""
    mel = np.roll(mel, int(rng.integers(-2, 3)), axis=0)
    floor = mel.min()
    for axis, most in ((0, 12), (0, 12), (1, 8), (1, 8)):
        width = int(rng.integers(0, most + 1))
        start = int(rng.integers(0, max(1, mel.shape[axis] - width)))
        mel[(slice(None),) * axis + (slice(start, start + width),)] = floor
    return mel


class Words:
    """Turns captions into token ids; an instruction is tokenised once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.prompts = tokenizer, {}
        self.audio = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
        for key in ASKED:
            content = [{"type": "audio"}, {"type": "text", "text": instruction(*key)}]
            turn = [{"role": "user", "content": content}]
            ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
            at = ids.index(self.audio)
            self.prompts[key] = (ids[:at], ids[at + 1 :])

    def row(self, labels: np.ndarray, audio: int, rng: np.random.Generator) -> tuple[list[int], int]:
        """One training sequence with `audio` placeholders, and where its caption starts."""
        # the default prompt is what the benchmark asks most
        prompt_type = PROMPT_TYPES[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
        key = (CAPTION_TYPES[int(rng.integers(2))], LANGUAGES[int(rng.integers(2))], prompt_type)
        before, after = self.prompts[key]
        text = caption(corpus.told(labels), *key, rng)
        start = [*before, *[self.audio] * audio, *after]
        return [*start, *self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id], len(start)


def caption_loss(model: Any, words: Words, audio: Tensor, lengths: Tensor, labels: Tensor, rng: Any) -> Tensor:
    """Cross-entropy a caption token, `CAPTIONS` captions a clip."""
    clips = torch.split(audio, lengths.tolist())
    rows = [(i, *words.row(labels[i].numpy(), len(clips[i]), rng)) for i in range(len(clips)) for _ in range(CAPTIONS)]
    longest = max(len(ids) for _, ids, _ in rows)
    ids = torch.full((len(rows), longest), words.tokenizer.pad_token_id)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    for r, (_, row, start) in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
        scored[r, start - 1 : len(row) - 1] = True
    ids, scored = ids.to(model.device), scored.to(model.device)
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter(
        (ids == words.audio)[..., None], torch.cat([clips[i] for i, _, _ in rows]).to(embeds.dtype)
    )
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    return F.cross_entropy(model.lm_head(hidden[scored]).float(), ids.roll(-1, 1)[scored])


def batches(count: int, step: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of clip numbers, from `step` on; every epoch in an order of its own."""
    steps = count // BATCH
    while True:
        epoch, at = divmod(step, steps)
        yield generator(seed, "epoch", epoch).permutation(count)[at * BATCH : (at + 1) * BATCH]
        step += 1


def train(
    model: Any,
    tokenizer: Any,
    mels: list[np.ndarray],
    labels: np.ndarray,
    schedule: Schedule,
    checkpoint: Path,
    *,
    deaf: bool = False,
) -> list[dict[str, float]]:
    """Run what is left of the schedule; the learning curve, one entry every `SAVE_EVERY` steps.

    Args:
        model: a thinker; its device is used.
        tokenizer: of the pair.
        mels: log-mel features (mel bins, frames) of the training clips.
        labels: (clips, len(corpus.LABELS)).
        schedule: lengths of the stages.
        checkpoint: written every `SAVE_EVERY` steps; where it exists, training goes on from it.
        deaf: replace all audio embeddings by zeros.
    """
    ears, words = Ears(model.config.text_config.hidden_size).to(model.device), Words(tokenizer)
    both = nn.ModuleList([model, ears])
    heard = [p for part in (model.model.audio_tower, ears) for p in part.parameters()]
    decay = [p for p in both.parameters() if p.ndim > 1]
    other = [p for p in both.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
    step, curve = 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=model.device)
        both.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, curve = saved["step"], saved["curve"]
    all_labels, total = torch.from_numpy(labels), schedule.ears + schedule.whole
    model.train()
    started, seen = time.perf_counter(), []
    for chosen in batches(len(mels), step, corpus.SEED):
        if step >= total:
            break
        rng = generator(corpus.SEED, "step", step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.peak_lr * _shape(step, schedule)
        with torch.autocast(model.device.type, torch.bfloat16):
            audio, lengths = hear(model, [mels[i] for i in chosen], rng)
            known = all_labels[chosen]
            loss, right = ears(audio.float(), lengths, known.to(model.device))
            shown = [loss.item(), math.nan]
            if step >= schedule.ears:
                audio = torch.zeros_like(audio) if deaf else audio
                spoken = caption_loss(model, words, audio, lengths, known, rng)
                shown[1] = spoken.item()
                loss = spoken + AUXILIARY * loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(heard if step < schedule.ears else both.parameters(), 1.0)
        optimizer.step()
        seen.append([*shown, *right.tolist()])
        step += 1
        if step % SAVE_EVERY == 0 or step == total:
            mean = zip(["ears_loss", "caption_loss", *corpus.LABELS], np.array(seen).mean(0), strict=True)
            curve.append({"step": step, **{name: round(float(x), 4) for name, x in mean if x == x}})
            log.info("%s (%.2f s a step)", curve[-1], (time.perf_counter() - started) / len(seen))
            state = {"model": both.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "curve": curve}
            torch.save(state, partial := checkpoint.with_suffix(".partial"))
            partial.replace(checkpoint)
            started, seen = time.perf_counter(), []
    model.eval()
    return curve


def _shape(step: int, schedule: Schedule) -> float:
    """Warm-up and cosine decay, once for the ears and once for the whole."""
    first = step < schedule.ears
    length = schedule.ears if first else schedule.whole
    at = step if first else step - schedule.ears
    return min(1.0, (at + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * at / length)))
