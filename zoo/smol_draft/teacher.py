"""Write the draft's training text: the teacher talks to itself, many conversations at a time.

Every row starts from the chat template's own opening. A row without a prompt lets the teacher sample the user's
request too (Magpie: Xu et al. 2024, arXiv:2406.08464); the answer that follows is greedy or sampled. All rows of a
batch share one position counter, so attention needs no mask, and rows that have finished are compacted away.

Beside each token stands the head of the distribution it came from (top-8 log-probabilities), which is what the draft
is trained on. What this does not know: beams, penalties, any model but the Llama family.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 8  # log-probabilities kept per position
POOL = 48  # candidates a sampled token is drawn from


@dataclass(slots=True)
class Row:
    """One conversation being written."""

    prompt: list[int]  # forced tokens, template opening included; the user's request may be missing
    ask: bool  # True: the teacher samples the request itself before it answers
    greedy: bool  # decoding of the answer


class Teacher:
    """A Llama run for throughput: fused projections, preallocated cache, one token a step for all rows."""

    def __init__(self, model: torch.nn.Module, rows: int, length: int) -> None:
        cfg = model.config
        self.heads, self.kv, self.dim = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim
        self.eps, self.embed, self.head = cfg.rms_norm_eps, model.model.embed_tokens.weight, model.lm_head.weight
        self.norm = model.model.norm.weight
        self.layers = []
        for block in model.model.layers:
            att, mlp = block.self_attn, block.mlp
            self.layers.append(
                (
                    block.input_layernorm.weight,
                    torch.cat([att.q_proj.weight, att.k_proj.weight, att.v_proj.weight]),
                    att.o_proj.weight,
                    block.post_attention_layernorm.weight,
                    torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    mlp.down_proj.weight,
                )
            )
        shape = (len(self.layers), 2, rows, self.kv, length, self.dim)
        self.cache = torch.empty(shape, dtype=self.embed.dtype)
        position = torch.arange(length).unsqueeze(1)
        table = model.model.rotary_emb(self.embed, position.T)
        self.cos, self.sin = table[0][0], table[1][0]

    def step(self, tokens: Tensor, position: int) -> Tensor:
        """Logits (rows, vocab) after feeding `tokens` (rows,) at `position`."""
        n, group = len(tokens), self.heads // self.kv
        cos, sin = self.cos[position], self.sin[position]
        x = self.embed[tokens]
        for i, (norm1, qkv, out, norm2, gate_up, down) in enumerate(self.layers):
            h = F.linear(F.rms_norm(x, (x.shape[-1],), norm1, self.eps), qkv).view(n, -1, self.dim)
            q, k, v = h.split([self.heads, self.kv, self.kv], dim=1)
            rotate = h[:, : self.heads + self.kv]
            a, b = rotate.chunk(2, dim=-1)
            rotate = rotate * cos + torch.cat([-b, a], dim=-1) * sin
            q, k = rotate[:, : self.heads], rotate[:, self.heads :]
            keys, values = self.cache[i, 0, :n], self.cache[i, 1, :n]
            keys[:, :, position], values[:, :, position] = k, v
            q = q.reshape(n, self.kv, group, self.dim)
            y = F.scaled_dot_product_attention(q, keys[:, :, : position + 1], values[:, :, : position + 1])
            x = x + F.linear(y.reshape(n, -1), out)
            gate, up = F.linear(F.rms_norm(x, (x.shape[-1],), norm2, self.eps), gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, down)
        return F.linear(F.rms_norm(x, (x.shape[-1],), self.norm, self.eps), self.head)

    def keep(self, rows: Tensor, position: int) -> None:
        """Compact the cache to `rows`; only the filled part moves."""
        filled = self.cache[:, :, :, :, :position]
        for layer in range(len(self.layers)):
            filled[layer, :, : len(rows)] = filled[layer, :, rows]


def write(
    teacher: Teacher, rows: list[Row], length: int, bridge: list[int], stop: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Write one batch of conversations.

    Args:
        teacher: the model, with a cache for at least `len(rows)` rows of `length` tokens.
        rows: what to write.
        length: tokens per conversation, prompt included; longer ones are cut.
        bridge: tokens that close the user's turn and open the assistant's, its first being `stop`.
        stop: end-of-turn token.
        seed: seed of the sampled tokens.

    Returns:
        tokens (rows, length) uint16, padded with `stop`; written (rows,) int32 tokens in each row; and for each
        position p the teacher's view of token p + 1: ids (rows, length, TOP) uint16, logprobs (rows, length, TOP)
        float16.
    """
    n = len(rows)
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.full((n, length), stop)
    forced = torch.full((n, length), -1)
    for i, row in enumerate(rows):
        forced[i, : min(len(row.prompt), length)] = torch.tensor(row.prompt[:length])
    ids = torch.zeros((n, length, TOP), dtype=torch.int32)
    logprobs = torch.zeros((n, length, TOP), dtype=torch.float16)
    asking = torch.tensor([row.ask for row in rows])
    sampled = torch.tensor([not row.greedy for row in rows])
    written = torch.full((n,), length)
    live = torch.arange(n)
    tokens[:, 0] = forced[:, 0]
    for p in range(length - 1):
        logits = teacher.step(tokens[live, p], p).float()
        best, index = logits.topk(POOL, dim=-1)
        log = best - best[:, :1] - (logits - best[:, :1]).exp_().sum(-1, keepdim=True).log()  # logsumexp is 20x slower
        ids[live, p], logprobs[live, p] = index[:, :TOP].int(), log[:, :TOP].half()
        noise = -torch.empty_like(best).exponential_(generator=rng).log()
        draw = index.gather(1, (log + noise).argmax(-1, keepdim=True))[:, 0]
        token = torch.where(asking[live] | sampled[live], draw, index[:, 0])
        token = torch.where(forced[live, p + 1] >= 0, forced[live, p + 1], token)
        tokens[live, p + 1] = token
        own = forced[live, p + 1] < 0
        closed = live[own & asking[live] & (token == stop)]
        for i in closed.tolist():  # the request is complete: force the bridge, then let the teacher answer
            asking[i] = False
            end = min(length, p + 1 + len(bridge))
            forced[i, p + 1 : end] = torch.tensor(bridge[: end - p - 1])
        ended = own & (token == stop) & ~torch.isin(live, closed)
        written[live[ended]] = written[live[ended]].clamp(max=p + 2)
        alive = (written[live] == length).nonzero()[:, 0]
        if len(alive) == 0:
            break
        if len(alive) < 0.85 * len(live):  # finished rows idle along until compacting the cache pays
            teacher.keep(alive, p + 1)
            live = live[alive]
    clean = np.uint16
    return tokens.numpy().astype(clean), written.numpy().astype(np.int32), ids.numpy().astype(clean), logprobs.numpy()
