"""The embedded pair, real weights and all: lossless decoding writes what the cloud writes, token for token."""

from __future__ import annotations

import json
import warnings
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf

from edgecloud.data import Sample, encode, read_prompts
from edgecloud.decode import Ending
from edgecloud.lm import CachedLM, Prompt
from edgecloud.metrics import GREEDY
from edgecloud.sampling import Luck
from edgecloud.schema import PromptsConfig
from suite.config import CONF
from suite.hardware.profile import HardwareConfig
from suite.models.loading import Loaded, load
from suite.models.plan import Placement
from suite.models.spec import ModelConfig
from tests.loop import Way, together

PROMPTS = read_prompts(PromptsConfig().file(), None)
ANSWERS = PromptsConfig().file().with_name(GREEDY)
RECORDED = {row["id"]: row for row in map(json.loads, ANSWERS.read_text().splitlines())}
LOSSLESS = Way(k=4)


@cache
def pair() -> dict[str, Loaded]:
    models = OmegaConf.load(CONF / "models" / "smollm2.yaml")
    hardware = HardwareConfig(dtype="float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that fetch and unpack, once per machine
        return {
            name: load(ModelConfig(**models[name]), placement=Placement(), hardware=hardware)
            for name in ("edge", "cloud")
        }


@cache
def wrapped() -> tuple[CachedLM, CachedLM]:
    return CachedLM(pair()["edge"].model), CachedLM(pair()["cloud"].model)


def ours(sample: Sample, tokens: int) -> list[int]:
    cloud = pair()["cloud"]
    ending = Ending(max_new_tokens=tokens, eos=frozenset([cloud.tokenizer.eos_token_id]))
    prompt = Prompt(tokens=encode(sample, cloud.tokenizer))
    return together(*wrapped(), prompt, LOSSLESS, ending, Luck(0, sample.id)).tokens


def test_every_prompt_has_a_recorded_greedy_answer_of_the_configured_cloud():
    sha256 = OmegaConf.load(CONF / "models" / "smollm2.yaml").cloud.sha256
    assert [sample.id for sample in PROMPTS] == list(RECORDED)
    assert {row["model_sha256"] for row in RECORDED.values()} == {sha256}


@pytest.mark.parametrize("sample", PROMPTS[:3], ids=lambda sample: sample.id)
def test_lossless_text_is_the_clouds_own(sample: Sample):
    assert ours(sample, 24) == RECORDED[sample.id]["tokens"][:24]


def test_edge_drafts_what_the_cloud_would_write_a_third_of_the_time():
    edge, cloud = wrapped()
    ending = Ending(max_new_tokens=32, eos=frozenset([2]))
    prompts = [Prompt(tokens=encode(sample, pair()["cloud"].tokenizer)) for sample in PROMPTS[:6]]
    outputs = [together(edge, cloud, prompt, LOSSLESS, ending, Luck(0, "")) for prompt in prompts]
    accepted, tested = (sum(getattr(out.counters, name) for out in outputs) for name in ("accepted", "tested"))
    assert accepted / tested > 1 / 3


@pytest.mark.slow
@pytest.mark.parametrize("sample", PROMPTS, ids=lambda sample: sample.id)
def test_lossless_equals_cloud_alone_and_assisted_generation_on_every_prompt(sample: Sample):
    cloud, edge = pair()["cloud"], pair()["edge"]
    tokens = ours(sample, 64)
    assert tokens == RECORDED[sample.id]["tokens"]
    ids = torch.tensor([encode(sample, cloud.tokenizer)])
    assisted = cloud.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        assistant_model=edge.model,
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=cloud.tokenizer.eos_token_id,
    )
    assert tokens == assisted[0, ids.shape[1] :].tolist()
