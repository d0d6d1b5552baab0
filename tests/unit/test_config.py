"""The typed configuration: what the conf/ folder composes to, and the sentence that each mistake costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import launch
from edgecloud.schema import SpecDecConfig, VoicesConfig
from suite.config import CONF, RunConfig, check_text, explain, identity, plain, typed
from suite.errors import ConfigError, UserError
from suite.models.spec import ModelConfig

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module", name="compose")
def composer() -> Iterator[Compose]:
    for module in launch.SCHEMAS:
        module.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("config", list(overrides))


def test_the_default_is_the_reference_method_on_the_embedded_audio_pair(compose: Compose) -> None:
    config = typed(compose())
    assert isinstance(config, RunConfig)
    assert isinstance(config.task, SpecDecConfig)
    assert isinstance(config.dataset, VoicesConfig)
    assert (config.models["edge"].id, config.models["cloud"].id) == ("omni_tiny/edge", "omni_tiny/cloud")
    assert (config.dataset.caption_type, config.dataset.language, config.dataset.prompt_type) == (
        "original",
        "chinese",
        "default",
    )
    assert (config.task.method, config.task.k, config.task.entropy_threshold, config.task.rank_threshold) == (
        "specdec",
        3,
        1.5,
        3,
    )
    assert {name: type(model) for name, model in config.models.items()} == dict.fromkeys(("edge", "cloud"), ModelConfig)
    assert (config.hardware.name, config.task.cloud_hardware.name, config.tracker.name) == ("local", "local", "none")
    assert config.seed == 42


@pytest.mark.parametrize(
    ("method", "used"),
    [("edge", ("edge",)), ("cloud", ("cloud",)), ("specdec", ("edge", "cloud")), ("colocated", ("edge", "cloud"))],
)
def test_a_method_loads_only_what_it_needs(compose: Compose, method: str, used: tuple[str, ...]) -> None:
    assert typed(compose(f"task.method={method}")).task.decoders() == used


@pytest.mark.parametrize(
    "choice",
    [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name != "experiment"],
)
def test_every_choice_of_every_group_composes_and_is_typed(compose: Compose, choice: str) -> None:
    # some groups belong to one task, and some data are not in this repository
    data, images = ["dataset.path=README.md", "+dataset.corpus=README.md"], "dataset.images=docs"
    needs = {
        "shapes=": ["task=specdec_what_if"],
        "mdp=": ["task=argo"],
        "dataset=questions": data,
        "dataset=oran_bench": data,
        "dataset=multihop": data[:1],
        "dataset=textvqa": [*data[:1], images],
        "dataset=vqav2": [*data[:1], images, "dataset.annotations=README.md"],
        "dataset=okvqa": [*data[:1], images, "dataset.annotations=README.md"],
        "dataset=scienceqa": data[:1],
        "dataset=easy_vqa": data[:1],
        "step=": ["task=controller"],
    }
    before = [override for start, more in needs.items() if choice.startswith(start) for override in more]
    typed(compose(choice, *before))


# ---- mistakes: golden sentences ----

TASK = f"Known: {', '.join(sorted(field.name for field in fields(SpecDecConfig)))}."
TOP = (
    "Known: dataset, dry_run, gpu_mode, hardware, models, output_name, retry_failed, seed, strict, task, tracker, "
    "verbose."
)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "task.entropy_treshold=1",
            f"There is no option 'task.entropy_treshold'. Did you mean 'entropy_threshold'? {TASK}",
        ),
        ("task.zzz=1", f"There is no option 'task.zzz'. {TASK}"),
        (
            "models.cloud.revison=v1",
            "There is no option 'models.cloud.revison'. Did you mean 'revision'? "
            "Known: dtype, file, id, quantization, revision, sha256, source, trust_remote_code.",
        ),
        ("models.clod.id=x", "There is no option 'models.clod'. Did you mean 'cloud'? Known: cloud, edge."),
        ("sead=1", f"There is no option 'sead'. Did you mean 'seed'? {TOP}"),
        ("hardwar=h100", f"There is no option 'hardwar'. Did you mean 'hardware'? {TOP}"),
        (
            "hardware=iphone15",
            "hardware=iphone15 does not exist. Did you mean 'iphone15_cpu'? "
            "Known: g100, h100, iphone15_cpu, local, rtx3060x8.",
        ),
        (
            "task=zzz",
            "task=zzz does not exist. Known: argo, argo_calibration, argo_graphs, controller, controller_smoke, "
            "specdec, specdec_what_if.",
        ),
        ("task.k=x", "task.k: Value 'x' of type 'str' could not be converted to Integer."),
        ("task.k=2.5", "task.k: Value '2.5' of type 'float' could not be converted to Integer."),
        ("strict=perhaps", "strict: Value 'perhaps' is not a valid bool (type str)."),
        ("task.k=[1", None),
        ("task.k=3,5", None),
    ],
)
def test_what_cannot_be_composed(compose: Compose, override: str, sentence: str | None) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011  Hydra's and OmegaConf's errors share no useful base
        compose(override)
    said = explain(error.value)
    assert "\n" not in said
    if sentence is not None:
        assert said == sentence


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task.k=0"], "task.k=0 must be between 1 and 64."),
        (["task.entropy_threshold=-0.1"], "task.entropy_threshold=-0.1 must be at least 0."),
        (["task.entropy_threshold=nan"], "task.entropy_threshold=nan must be at least 0."),
        (
            ["task.method=specdecc"],
            "task.method=specdecc is not one of cloud, colocated, edge, specdec. Did you mean 'specdec'?",
        ),
        (["task.verification=exact"], "task.verification=exact is not one of bild, ensemble, lossless, rank."),
        (["task.stop=['']"], "task.stop holds an empty text, which would end every output at once; remove it."),
        (["dataset.max_samples=0"], "dataset.max_samples=0 must be at least 1."),
        (
            ["dataset=prompts", "dataset.path=no.jsonl"],
            "dataset.path=no.jsonl does not exist; give a JSON Lines file of prompts.",
        ),
        (["seed=-1"], "seed=-1 must be between 0 and 9.22337e+18."),
        (["output_name=a/b"], "output_name=a/b must be letters, digits, '.', '_' or '-' only."),
        (["models.cloud.source=hup"], "models.*.source=hup is not one of hub, path, wheel, zoo. Did you mean 'hub'?"),
        (["hardware.device=gpu"], "hardware.device=gpu is not one of auto, cpu, cuda. Did you mean 'cpu'?"),
        (["task.cloud_hardware.max_cpu_cores=0"], "hardware.max_cpu_cores=0 must be at least 1."),
        (["+foo=1"], "There is no option 'foo' to add with +; drop it."),
        (["+task.foo=1"], "There is no option 'foo' to add with +; drop it."),
        (["+models.scorer={source: path, idd: x}"], None),
        (["~dataset"], None),
    ],
)
def test_what_cannot_be_run(compose: Compose, overrides: list[str], sentence: str | None) -> None:
    cfg = compose(*overrides)
    with pytest.raises(ConfigError) as error:
        typed(cfg)
    assert "\n" not in str(error.value)
    if sentence is not None:
        assert str(error.value) == sentence


def test_infinity_is_legal_and_stays_so_in_json(compose: Compose) -> None:
    cfg = compose("task.entropy_threshold=inf")
    assert typed(cfg).task.entropy_threshold == float("inf")
    assert plain(cfg)["task"]["entropy_threshold"] == "inf"
    json.dumps(plain(cfg), allow_nan=False)
    assert typed(compose(f"task.entropy_threshold={plain(cfg)['task']['entropy_threshold']}")) == typed(cfg)


def test_identity_leaves_out_what_changes_no_number(compose: Compose) -> None:
    assert set(plain(compose())) - set(identity(compose())) == {
        "tracker",
        "verbose",
        "output_name",
        "strict",
        "retry_failed",
        "dry_run",
    }


def test_explain_passes_our_own_sentences_on() -> None:
    assert explain(UserError("As it is.")) == "As it is."


def test_a_model_can_be_added_to_a_run(compose: Compose) -> None:
    assert typed(compose("+models.scorer={source: path, id: bert}")).models["scorer"] == ModelConfig(
        source="path", id="bert"
    )


def test_what_is_not_utf_8_is_refused_in_one_line() -> None:
    check_text(["task.k=3", "dataset.path=é"])
    with pytest.raises(ConfigError) as refused:
        check_text(["\n=\udcff"])
    assert str(refused.value) == r"'\n=\udcff' is not UTF-8; type it, or rename the file, in UTF-8."
