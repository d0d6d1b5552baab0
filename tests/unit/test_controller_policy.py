"""The controllers' network, its training loop, supervised training and the exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from controller import export, supervised
from controller.fit import fit
from controller.policy import Policy, feasible, joined, settings
from controller.schema import TrainConfig
from controller.space import Space
from controller.supervised import Lesson
from suite.errors import UserError
from suite.rng import generator

SPACE = Space(tiers=("low", "high"), top_ks=(4, 8, 12), depths=(8, 16))


def policy(seed: int = 0, features: int = 7) -> Policy:
    """One with something to say."""
    network = Policy(settings(SPACE), features=features, width=16, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    nn.init.normal_(network.heads.weight, generator=draws)
    nn.init.normal_(network.heads.bias, generator=draws)
    network.normalise(3 + 2 * torch.randn(100, features, generator=draws))
    return network


def states(n: int, *, seed: int = 0, features: int = 7) -> Tensor:
    return 3 + 2 * torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def test_it_starts_uniform_and_by_its_seed() -> None:
    one, same, other = (Policy(settings(SPACE), features=7, width=16, seed=seed) for seed in (0, 0, 1))
    assert torch.allclose(one.log_probabilities(states(5)).exp(), torch.full((5, 12), 1 / 12))
    hidden = [next(network.hidden.parameters()) for network in (one, same, other)]
    assert torch.equal(hidden[0], hidden[1])
    assert not torch.equal(hidden[0], hidden[2])


def test_an_action_is_its_settings_in_the_order_of_the_space() -> None:
    """Its probability is the product of its heads' softmaxes."""
    network, inputs = policy(), states(4)
    logits = network.heads(network.hidden((inputs - network.mean) / network.spread)).split([2, 3, 2], dim=-1)
    tier, top_k, blocks = (head.softmax(dim=-1) for head in logits)
    product = torch.einsum("nt,nk,nb->ntkb", tier, top_k, blocks).reshape(4, 12)
    assert torch.allclose(network.log_probabilities(inputs).exp(), product, atol=1e-6)
    places = network.places(np.arange(len(SPACE)))
    assert np.array_equal(np.stack(list(places.values()), axis=1), SPACE.places())


def test_a_mask_leaves_the_others_in_proportion() -> None:
    network, inputs = policy(), states(50)
    allowed = torch.from_numpy(generator(0, "mask").random((50, 12)) < 0.4)
    allowed[:, 0] = True
    free, masked = network.log_probabilities(inputs).exp(), network.log_probabilities(inputs, allowed).exp()
    assert (masked[~allowed] == 0).all()
    assert torch.allclose(masked, free * allowed / (free * allowed).sum(dim=-1, keepdim=True), atol=1e-6)
    assert allowed.gather(-1, torch.from_numpy(network.best(inputs, allowed))[:, None]).all()


def test_the_cheapest_is_always_allowed() -> None:
    latency_ms = np.array([[10.0, 20.0, 30.0], [12.0, 18.0, 40.0]])
    allowed = feasible(latency_ms[:, None], np.array([5.0, 20.0]))
    assert allowed.tolist() == [[[True, False, False], [True, True, False]]] * 2
    network = policy()
    decider = export.Arrays(network)
    assert decider.decide(states(1)[0].numpy(), np.arange(10.0, 130.0, 10.0), budget_ms=5.0) == 0
    free = int(network.best(states(1)[0]))
    assert decider.decide(states(1)[0].numpy(), np.zeros(12), budget_ms=5.0) == free


def test_features_are_normalised_by_what_was_seen() -> None:
    network = Policy(settings(SPACE), features=2, width=16, seed=0)
    inputs = torch.stack([torch.linspace(0, 10, 12), torch.full((12,), 4.0)], dim=1).reshape(3, 4, 2)
    network.normalise(inputs)
    assert network.mean.tolist() == pytest.approx([5.0, 4.0])
    assert network.spread.tolist() == pytest.approx([inputs[..., 0].std(correction=0).item(), 1.0])


def test_parts_are_joined_state_by_state() -> None:
    language, vision, budgets = np.array([[[1.0]], [[2.0]]]), np.arange(6.0).reshape(2, 3, 1), np.eye(3)[None]
    inputs = joined(language, vision, budgets)
    assert inputs.shape == (2, 3, 5)
    assert inputs[1, 2].tolist() == [2, 5, 0, 0, 1]


def test_a_stored_policy_is_the_same_and_refuses_other_knobs(tmp_path: Path) -> None:
    network, path = policy(), tmp_path / "policy.safetensors"
    network.save(path)
    again = Policy.load(path, settings(SPACE))
    assert torch.equal(network.log_probabilities(states(20)), again.log_probabilities(states(20)))
    with pytest.raises(UserError, match="decides tier low/high, top_k 4/8/12, blocks 8/16, but this run has top_k"):
        Policy.load(path, settings(SPACE, "top_k", "blocks"))


class FakeTraining:
    """One weight that steps down from 0 by Adam's rate; scores are given."""

    def __init__(self, scores: list[float], broken: int | None = None) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.scores, self.broken = scores, broken

    def run(self, checkpoint: Path, **options: Any) -> Any:
        def batch(rows: Tensor, epoch: int) -> Any:
            factor = float("nan") if epoch == self.broken else 1.0
            return lambda: factor * self.network.weight.sum()

        def score(epoch: int) -> Mapping[str, float]:
            return {"score": self.scores[epoch - 1]}

        config = TrainConfig(lr=0.5, epochs=len(self.scores), batch_size=4)
        return fit(
            self.network,
            batch,
            score,
            name="stage1",
            config=config,
            items=8,
            by="score",
            seed=0,
            checkpoint=checkpoint,
            **options,
        )


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    training = FakeTraining([0.1, 0.5, 0.9, 0.9, 0.2])
    fitted = training.run(tmp_path / "c.pt")
    assert fitted.best_epoch == 3
    assert [row["score"] for row in fitted.curve] == training.scores
    # Two batches an epoch, each a step of 0.5 down.
    assert training.network.weight.item() == pytest.approx(-3.0, abs=1e-5)


def test_every_batch_takes_its_updates(tmp_path: Path) -> None:
    training = FakeTraining([1.0])
    training.run(tmp_path / "c.pt", updates=3)
    assert training.network.weight.item() == pytest.approx(-3.0, abs=1e-5)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    with pytest.raises(UserError, match=r"stage1 stopped: the loss of epoch 4 .* after epoch 3 is kept, .*lr=0.5"):
        FakeTraining([0.1, 0.2, 0.3, 0.4], broken=4).run(path)
    saved = torch.load(path, weights_only=True)
    assert saved["network"]["weight"].item() == pytest.approx(-3.0, abs=1e-5)
    assert len(saved["curve"]) == 3
    # The cause removed, the same command goes on.
    assert len(FakeTraining([0.1, 0.2, 0.3, 0.4]).run(path).curve) == 4


def lesson(n: int, seed: int) -> Lesson:
    """The tier is in the question, top-k and blocks follow the budget."""
    question = generator(seed, "question").choice([-1.0, 1.0], size=(n, 1, 1))
    budgets = np.eye(6)[None]
    tier = np.broadcast_to(question[:, :, 0] > 0, (n, 6))
    labels = np.ravel_multi_index((tier, np.arange(6) // 2 + 0 * tier, np.arange(6) % 2 + 0 * tier), SPACE.shape)
    return Lesson(inputs=joined(question, budgets), labels=labels)


def test_labels_that_the_state_tells_are_learned(tmp_path: Path) -> None:
    config = TrainConfig(lr=1e-2, epochs=15, batch_size=64, width=16)
    network, fitted = supervised.train(
        settings(SPACE), lesson(40, 0), lesson(20, 1), config, name="supervised", seed=0, checkpoint=tmp_path / "c.pt"
    )
    score = supervised.grade(network, lesson(20, 1), seed=0)
    assert score.every.value == 1.0
    assert score.every.n == 20
    assert fitted.curve[-1]["held_out_loss"] < 0.2 * fitted.curve[0]["held_out_loss"]
    assert score.confusion["top_k"].tolist() == [[40, 0, 0], [0, 40, 0], [0, 0, 40]]


def test_grades_count_knob_by_knob() -> None:
    """Two samples at two budgets, by hand: a policy that always decides action 3 = low, 8, 16."""
    network = Policy(settings(SPACE), features=1, width=4, seed=0)
    with torch.no_grad():
        network.heads.bias[torch.tensor([0, 3, 6])] = 1.0
    labels = np.array([[3, 1], [9, 3]])  # 1 = low, 4, 16;  9 = high, 8, 16
    score = supervised.grade(network, Lesson(inputs=torch.zeros(2, 2, 1), labels=labels), seed=0)
    assert {name: estimate.value for name, estimate in score.knobs.items()} == {
        "tier": 0.75,
        "top_k": 0.75,
        "blocks": 1.0,
    }
    assert score.every.value == 0.5
    assert score.every.n == 2
    assert score.confusion["tier"].tolist() == [[3, 0], [1, 0]]


def test_shares_by_budget() -> None:
    assert supervised.shares(np.array([[0, 1], [2, 1]]), 3).tolist() == [[0.5, 0, 0.5], [0, 1, 0]]


def test_the_budget_alone_tells_the_commonest_label() -> None:
    labels = np.array([[0, 1], [0, 2], [1, 2], [0, 0]])  # 3 of 4, and 2 of 4
    assert supervised.ceiling(labels, 3) == 0.625


@pytest.mark.parametrize("kind", ["arrays", "graph"])
def test_what_is_exported_decides_the_same(kind: str, tmp_path: Path) -> None:
    """In 10,000 states, with budgets that fit nothing, something and everything."""
    network = policy(features=40)
    network.normalise(3.0 + 2.0 * states(100, seed=2, features=40))
    arrays = export.exported(network, tmp_path / "policy.onnx")
    decider = arrays if kind == "arrays" else export.Session(tmp_path / "policy.onnx")
    inputs = 3.0 + 2.0 * states(10_000, seed=1, features=40)
    draws = generator(0, "limits")
    latency_ms = draws.uniform(50, 150, size=(10_000, 12)).astype(np.float32)  # the first is not always the fastest
    budgets_ms = draws.uniform(40, 160, size=10_000).astype(np.float32)
    allowed = torch.from_numpy(feasible(latency_ms, budgets_ms))
    expected = network.best(inputs, allowed)
    rows = zip(inputs.numpy(), latency_ms, budgets_ms, strict=True)
    decided = [decider.decide(features, limits, float(budget)) for features, limits, budget in rows]
    assert decided == expected.tolist()
    assert len(set(decided)) == 12
    assert (expected != network.best(inputs)).mean() > 0.2  # the mask matters


def test_without_onnx_it_decides_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    arrays = export.exported(policy(), tmp_path / "policy.onnx")
    assert arrays.decide(states(1)[0].numpy(), np.zeros(12), budget_ms=5.0) in range(12)
    assert not (tmp_path / "policy.onnx").exists()
