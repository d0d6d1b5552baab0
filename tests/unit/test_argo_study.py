"""The grid on one tree: equal to the naive loop in every cell, counted before it runs, and never asked twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from argo.calls import Failure
from argo.curves import Cell
from argo.frontier import Frontier
from argo.mdp import Action, Mdp, cost_points, solve
from argo.prompts import Note, chosen, fit, reason, synthesize
from argo.questions import Question
from argo.schema import STRATEGIES, ArgoConfig, MdpConfig
from argo.store import CallStore
from argo.strategies import Rules
from argo.study import Policy, Study, outcome, told
from argo.tree import Tree, Want
from argo.walk import Unknown, luck, walk
from tests.argo_fakes import PASSAGES, FakeEngine, FakeRetriever, digits, questions

RATIOS = (1.0, 2.0, 4.0, 7.0, 10.0)
FIVE, ALL = STRATEGIES[:5], STRATEGIES


def frontier(task: ArgoConfig, engine: FakeEngine, store: CallStore | None = None) -> Frontier:
    return Frontier(task=task, engine=engine, retriever=FakeRetriever(), passages=PASSAGES, store=store)


def cells(strategies: tuple[str, ...] = FIVE, ratios: tuple[float, ...] = RATIOS) -> list[Cell]:
    return [Cell(strategy=strategy, cost_ratio=ratio) for strategy in strategies for ratio in ratios]


def grown(study: Study, asked: list[Question], grower: Frontier) -> dict[str, Tree]:
    trees = {question.id: Tree(question=question) for question in asked}
    study.grow(list(trees.values()), grower)
    return trees


def table(study: Study, trees: dict[str, Tree]) -> dict[tuple[Cell, str], Any]:
    found = {}
    for name, tree in trees.items():
        for policy, one in study.walks(tree).items():
            for cell in study.policies[policy]:
                found[cell, name] = (told(tree, one), outcome(tree, one, study.task, cell.cost_ratio))
    return found


@pytest.mark.parametrize("success", ["bernoulli", "similarity", "judged"])
def test_grid_equals_the_naive_loop_in_every_cell(success: str) -> None:
    task = ArgoConfig(success=success, similarity_threshold=0.4)
    asked = questions(6)
    study = Study(task, 42, cells(ALL))
    together = table(study, grown(study, asked, frontier(task, FakeEngine())))
    naive: dict[tuple[Cell, str], Any] = {}
    calls = 0
    for cell in cells(ALL):
        for question in asked:  # every cell and question by itself, one call at a time, nothing kept
            engine = FakeEngine(batch=1)
            alone = Study(task, 42, [cell])
            naive |= table(alone, grown(alone, [question], frontier(task, engine)))
            calls += len(engine.calls)
    assert together == naive
    assert len(together) == len(ALL) * len(RATIOS) * 6
    if success == "bernoulli":
        planned = Study(task, 42, cells(FIVE)).plan(asked)
        assert planned.naive <= calls


def test_plan_counts_exactly_before_running() -> None:
    task, asked = ArgoConfig(), questions(20)
    study = Study(task, 42, cells())
    plan, engine = study.plan(asked), FakeEngine()
    grower = frontier(task, engine)
    trees = grown(study, asked, grower)
    assert plan.at_most == 0
    assert plan.unique == grower.made + grower.found
    assert len(engine.calls) == grower.made == len({call.prompt for call in engine.calls}) <= plan.unique
    told_calls = sum(result["llm_calls"] for _, result in table(study, trees).values())
    assert plan.naive == told_calls
    assert plan.unique / len(asked) <= 100 < plan.naive / len(asked)


def test_what_strategies_ask_the_models_stays_within_the_bound() -> None:
    task, asked = ArgoConfig(), questions(8)
    study = Study(task, 42, cells(ALL))
    plan = study.plan(asked)
    grower = frontier(task, FakeEngine())
    grown(study, asked, grower)
    assert plan.unique < grower.made + grower.found <= plan.unique + plan.at_most


def test_ten_more_cost_points_add_a_quarter_at_most() -> None:
    task, asked = ArgoConfig(mode="medium"), questions(20)
    ten = tuple(cost_points(task.mdp, "linear", 10))
    between = tuple(ratio + 0.5 for ratio in ten)
    before = Study(task, 42, cells(FIVE, ten)).plan(asked).unique
    after = Study(task, 42, cells(FIVE, (*ten, *between))).plan(asked).unique
    assert after <= 1.25 * before


def test_a_second_run_asks_nothing_and_says_the_same(tmp_path: Path) -> None:
    task, asked = ArgoConfig(), questions(5)
    study = Study(task, 42, cells(ALL))
    with CallStore(tmp_path / "calls.sqlite") as store:
        first = table(study, grown(study, asked, frontier(task, FakeEngine(), store)))
    with CallStore(tmp_path / "calls.sqlite") as store:
        engine = FakeEngine(fails=lambda call: True)
        grower = frontier(task, engine, store)
        second = table(study, grown(study, asked, grower))
        assert engine.calls == [] and grower.made == 0 and grower.retriever.searches == 0
    assert first == second


def test_another_replicate_is_asked_anew(tmp_path: Path) -> None:
    asked = questions(2)
    with CallStore(tmp_path / "calls.sqlite") as store:
        made = []
        for replicate in (0, 1):
            task = ArgoConfig(replicate=replicate)
            grower = frontier(task, FakeEngine(), store)
            study = Study(task, 42, cells())
            grown(study, asked, grower)
            made.append(grower.made)
    assert min(made) > 0
    draws = [luck(42, "q0", ArgoConfig(replicate=replicate)) for replicate in (0, 1)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("part", ["Split a hard question", "Answer in one sentence.", "Answer:"])
def test_a_failed_call_costs_the_cells_that_need_it_and_is_asked_again(part: str, tmp_path: Path) -> None:
    task, asked = ArgoConfig(), questions(4)
    study = Study(task, 42, cells())
    whole = table(study, grown(study, asked, frontier(task, FakeEngine())))
    with CallStore(tmp_path / "calls.sqlite") as store:
        broken = FakeEngine(fails=lambda call: part in call.prompt and digits(call.prompt) % 7 == 0)
        trees = grown(study, asked, frontier(task, broken, store))
        left = table(study, trees)
        assert 0 < len(left) < len(whole) and all(whole[place] == told for place, told in left.items())
        lost = {question for _, question in whole.keys() - left.keys()}
        assert {name for name, tree in trees.items() if study.failure(tree) == "no answer"} == lost
        mended = table(study, grown(study, asked, frontier(task, FakeEngine(), store)))
    assert mended == whole


def test_all_strategies_have_the_same_luck() -> None:
    task = ArgoConfig()
    rules = Rules(task=task, solution=solve(Mdp.at(task.mdp, 1.0)))
    draws = luck(42, "q", task)

    def tried(strategy: str) -> list[bool]:
        steps = walk(strategy, rules, draws, lambda kind, path: None).steps
        return [step.ok for step in steps if step.action is Action.RETRIEVE]

    retrieving = tried("always_retrieve")
    assert retrieving == [lot < 0.7 for lot in draws.retrievals][: len(retrieving)]
    for strategy in ("argo", "random", "fixed_k"):
        assert tried(strategy) == retrieving[: len(tried(strategy))]


def test_a_failed_retrieval_costs_and_hands_on_nothing() -> None:
    task = ArgoConfig(mdp=MdpConfig(p_s=0.0), max_steps=5)
    study = Study(task, 42, [Cell(strategy="always_retrieve", cost_ratio=3.0)])
    trees = grown(study, questions(1), frontier(task, FakeEngine()))
    ((policy, one),) = study.walks(trees["q0"]).items()
    assert one.path == "" and one.retrievals == 5 and one.calls == 2
    result = outcome(trees["q0"], one, task, 3.0)
    assert result["cost"] == pytest.approx(5 * 0.3) and result["retrieved"] == 0 and result["support"] == 0.0
    assert result["llm_calls"] == 2  # the sub-query that stood, and the answer
    assert [step["passages"] for step in told(trees["q0"], one)["trajectory"]] == [[]] * 5


@pytest.mark.parametrize(
    ("strategy", "path"), [("always_retrieve", "R" * 7), ("always_reason", "P" * 13), ("fixed_k", "RRR")]
)
def test_where_the_plain_strategies_end(strategy: str, path: str) -> None:
    task = ArgoConfig(mdp=MdpConfig(p_s=1.0))
    rules = Rules(task=task, solution=solve(Mdp.at(task.mdp, 2.0)))
    assert walk(strategy, rules, luck(1, "q", task), lambda kind, path: None).path == path


def test_argo_walks_the_optimal_word() -> None:
    task = ArgoConfig(max_steps=200)
    for ratio in (1.0, 1.3, 1.5, 3.0, 9.0):
        solution = solve(Mdp.at(task.mdp, ratio))
        for name in "abc":
            rules = Rules(task=task, solution=solution)
            assert walk("argo", rules, luck(1, name, task), lambda kind, path: None).path == solution.word


def test_unsure_readers_retrieve_and_sure_ones_do_not() -> None:
    task = ArgoConfig(confidence_margin=1.0, mdp=MdpConfig(p_s=1.0))
    rules = Rules(task=task, solution=solve(Mdp.at(task.mdp, 2.0)))

    def know(kind: str, path: str) -> object:
        if path not in ("", "R", "RR"):
            raise Unknown(kind, path)
        return {"": (-1.0, -1.5), "R": (-1.0, -1.9, -5.0), "RR": (-3.0, -1.0)}[path]

    assert walk("confidence", rules, luck(1, "q", task), know).path == "RR"
    for said, path in (("none", ""), ("one", "R"), ("many", "R" * 7)):
        assert walk("difficulty", rules, luck(1, "q", task), lambda kind, path, said=said: said).path == path


def test_passages_are_handed_on_once() -> None:
    task = ArgoConfig(mdp=MdpConfig(p_s=1.0))
    study = Study(task, 42, [Cell(strategy="always_retrieve", cost_ratio=1.0)])
    trees = grown(study, questions(3), frontier(task, FakeEngine()))
    for tree in trees.values():
        names = tree.nodes["R" * 7].passages
        assert len(names) == len(set(names)) == 7


def test_cost_and_strategy_enter_no_prompt() -> None:
    """Cells that differ in cost alone share every call: the same policy is asked once."""
    task, asked = ArgoConfig(), questions(3)
    made = []
    for ratios in ((1.0,), RATIOS):
        engine = FakeEngine()
        study = Study(task, 42, cells(("always_retrieve", "always_reason", "random", "fixed_k"), ratios))
        grown(study, asked, frontier(task, engine))
        made.append([call.prompt for call in engine.calls])
    assert made[0] == made[1]


def test_want_counts_shared_prefixes_once() -> None:
    want = Want(ends={"RR", "RRP"}, asks={"", "R", "RR"})
    assert want.calls == 3 + 3 + 2
    assert Want(ends={"F", "FR"}, asks={""}).calls == 1 + 1 + 2
    assert replace(want, sort=True).calls == 9


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("2", 1),
        (" 3. beta", 2),
        ("The answer is 4.", 3),
        ("beta", 1),
        ("10", None),
        ("5", None),
        ("alpha or beta", None),
    ],
)
def test_an_option_is_read_from_the_answer_alone(text: str, index: int | None) -> None:
    assert chosen(text, ("alpha", "beta", "gamma", "delta")) == index


def test_passages_that_do_not_fit_are_left_out_from_the_end() -> None:
    shown = [PASSAGES["p01"], PASSAGES["p02"], PASSAGES["p03"]]

    def make(passages: Any) -> Any:
        return reason("why", passages, 10)

    whole, dropped = fit(make, shown, 10**6, len)
    assert dropped == 0 and all(passage.text in whole.prompt for passage in shown)
    room = len(whole.prompt) + 10 - 1
    cut, dropped = fit(make, shown, room, len)
    assert dropped == 1 and shown[1].text in cut.prompt and shown[2].text not in cut.prompt
    assert fit(make, shown, 0, len)[1] == 3


def test_the_final_prompt_holds_passages_notes_and_question() -> None:
    (question,) = questions(1)
    notes = [Note(query=f"n{i}", answer=f"a{i}", read=i == 7) for i in range(9)]
    call = synthesize(question, notes, [PASSAGES["p05"]], likelihood=True, max_new_tokens=5)
    assert call.options == question.options
    assert all(part in call.prompt for part in ("fact number 5", "n8: a8", "what is 0?"))
    assert "n0" not in call.prompt and "n7" not in call.prompt and "alpha" not in call.prompt
    generated = synthesize(question, [], [], likelihood=False, max_new_tokens=5)
    assert generated.options == () and "2. beta" in generated.prompt


def test_failure_is_not_an_answer() -> None:
    tree = Tree(question=questions(1)[0])
    tree.failed["query", ""] = Failure(error="gone").error
    with pytest.raises(Exception, match="gone"):
        tree.know("final", "R")


def test_policies_are_shared_between_costs_with_the_same_word() -> None:
    study = Study(ArgoConfig(), 1, cells())
    named: dict[Policy, int] = {policy: len(found) for policy, found in study.policies.items()}
    assert all(named[strategy, ""] == 5 for strategy in FIVE[1:])
    assert sum(count for (strategy, _), count in named.items() if strategy == "argo") == 5
