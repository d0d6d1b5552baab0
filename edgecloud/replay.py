"""The two models, played back from a trace: parts for `decode.speculate` that no setting can tell from the real ones.

Greedy models are functions of the prefix, so what the trie holds is what they would say, and tokens and counters come
out as in a live run, cache arithmetic included. Where the trie ends the models themselves are asked and the trie grows,
or the sample is refused; nothing is ever guessed. In float32, that is: below it a model that reads a block at once
rounds differently from one that reads token by token, and the trie keeps whichever came first.

What a trace cannot play: sampling, `ensemble` (it mixes whole distributions), drafters that are no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from edgecloud.costs import Costs
from edgecloud.draft import Drafted, EdgeDrafter
from edgecloud.gates import uncertainty
from edgecloud.lm import CachedLM, Prompt
from edgecloud.sampling import Luck, Sampling
from edgecloud.trace import Answer, Node, Proposal, SampleTrace
from edgecloud.verify import LocalCloud, Verdict, Verification, Verifier, View, judged, lossless
from suite.errors import UserError

T = TypeVar("T")
Models = Callable[[], tuple[CachedLM, CachedLM]]
GREEDY = Sampling()


class Positions:
    """How many positions a `CachedLM` would compute, without one: the arithmetic of its `logits`."""

    def __init__(self) -> None:
        self.computed = 0
        self._prompt = 0
        self._cached: list[int] | None = None

    def reset(self, prompt: int) -> None:
        """Forget the sequence; the next one begins with a prompt of so many tokens."""
        self.computed, self._prompt, self._cached = 0, prompt, None

    def ask(self, output: list[int], keep: int) -> int:
        """Positions computed when the last `keep` logits are asked of the prompt and `output`.

        The list is kept: what the caller appends to it, one token at a time, is told with `step`.
        """
        cached, common = self._cached, -self._prompt
        if cached is not None:
            common = min(len(cached), len(output) - keep)
            while common > 0 and cached[:common] != output[:common]:
                common -= 1
        self._cached = output
        self.computed += len(output) - common
        return len(output) - common

    def step(self) -> int:
        """Positions computed for the token just appended."""
        self.computed += 1
        return 1


class Tape:
    """The trie of the sample that is playing, and the models to ask where it ends.

    Attributes:
        consulted: nodes whose proposal or answer was needed since `begin`.
        live: those of them that the models had to be asked about.
        calls: forward passes that took.
        edge_s: time in the edge so far (modelled, as is the next).
        cloud_s: time in the cloud so far.
    """

    def __init__(self, costs: dict[str, Costs], models: Models | None) -> None:
        """Play at the prices `costs`; `models` are asked where the trie ends, None refuses the sample there."""
        self.costs, self.models = costs, models
        self._real: tuple[EdgeDrafter, LocalCloud] | None = None

    def begin(self, sample: SampleTrace, prompt: Callable[[], Prompt]) -> None:
        """Play a sample from its start; `prompt` is what the models would be asked, made only if they are."""
        self.sample, self._prompt, self._asked = sample, prompt, False
        self._path, self._tokens = [sample.root], list[int]()
        self._fresh: dict[str, set[Node]] = {"edge": set(), "cloud": set()}
        self._first = {"edge", "cloud"}
        self.consulted = self.live = self.calls = 0
        self.edge_s = self.cloud_s = 0.0

    def clock(self) -> float:
        """Seconds in either model since `begin` (modelled), for `decode.speculate`."""
        return self.edge_s + self.cloud_s

    def at(self, output: list[int]) -> Node:
        """The node after `output`."""
        tokens, path = self._tokens, self._path
        common = min(len(tokens), len(output))
        while tokens[:common] != output[:common]:  # a guess of the drafter's that did not come true
            common -= 1
        del path[common + 1 :]
        for token in output[common:]:
            path.append(path[-1].child(token))
        self._tokens = output.copy()
        return path[-1]

    def seconds(self, model: str, positions: int) -> float:
        """Time of a call (modelled): the sample's first as it was measured, any other by the line of all calls."""
        costs = self.costs[model]
        if model in self._first:
            self._first.remove(model)
            if model in self.sample.first:
                measured, first_s = self.sample.first[model]
                return first_s + costs.line()[1] * (positions - measured)
        return costs.seconds(positions)

    def proposal(self, node: Node, output: list[int]) -> Proposal:
        """What the edge says at `node`, which stands after `output`."""
        self.consulted += 1
        if node.proposal is None:
            self._ask_edge(node, output)
        self.live += node in self._fresh["edge"]
        assert node.proposal is not None
        return node.proposal

    def answer(self, nodes: list[Node], at: int, emitted: list[int], drafted: list[Drafted]) -> Answer:
        """What the cloud says at `nodes[at]`; `nodes` stand after `emitted` and after each of `drafted` in turn."""
        self.consulted += 1
        node = nodes[at]
        if node.answer is None:
            self._ask_cloud(nodes, emitted, drafted[: len(nodes) - 1])
        self.live += node in self._fresh["cloud"]
        assert node.answer is not None
        return node.answer

    def _ask_edge(self, node: Node, output: list[int]) -> None:
        edge, _ = self._models(output)
        drafted = self._measured(edge.model, "edge", lambda: edge.propose(edge.prompt + output, len(output)))
        assert drafted.entropy_nats is not None and drafted.confidence is not None and drafted.logits is not None
        unsure = uncertainty(drafted.logits, drafted.column)
        self._fresh["edge"].add(node)
        node.proposal = Proposal(drafted.token, drafted.entropy_nats, drafted.confidence, unsure)
        self.sample.unsaved[tuple(output)] = node

    def _ask_cloud(self, nodes: list[Node], emitted: list[int], fed: list[Drafted]) -> None:
        _, cloud = self._models(emitted)
        views = self._measured(cloud.model, "cloud", lambda: cloud.views(emitted, fed))
        output = emitted.copy()
        for i, (node, view) in enumerate(zip(nodes, views, strict=True)):
            if node.answer is None:
                self._fresh["cloud"].add(node)
                if node.proposal is None:  # the answer is about it
                    self._ask_edge(node, output)
                assert node.proposal is not None
                token = node.proposal.token
                node.answer = Answer(view.best(), view.rank(token), view.surprise_nats(token))
                self.sample.unsaved[tuple(output)] = node
            output += [d.token for d in fed[i : i + 1]]

    def _models(self, output: list[int]) -> tuple[EdgeDrafter, LocalCloud]:
        if self.models is None:
            raise UserError(
                f"The trace of {self.sample.id} ends after {len(output)} tokens of this output; set "
                "task.on_trace_end=live to let the models go on from there."
            )
        if cold := self._real is None:
            edge, cloud = self.models()
            self._real = EdgeDrafter(edge, GREEDY), LocalCloud(cloud, lossless, Verification(sampling=GREEDY))
        if not self._asked:
            prompt, self._asked = self._prompt(), True
            if prompt.tokens != self.sample.prompt:
                raise UserError(
                    f"The trace holds another prompt of {self.sample.id}: was the tokenizer changed? Delete the trace."
                )
            for part in self._real:
                part.reset(prompt, Luck(0, ""))
            if cold:  # the first calls of a process are slow, and no price to go by
                self._real[0].draft([], 1, frozenset(), self.clock)
                self._real[1].views([], [])
                for part in self._real:
                    part.reset(prompt, Luck(0, ""))
        return self._real

    def _measured(self, model: CachedLM, name: str, ask: Callable[[], T]) -> T:
        """`ask()`, its positions and seconds kept in the sample."""
        before_s, before = model.seconds, model.computed
        answer = ask()
        self.calls += 1
        call = (model.computed - before, model.seconds - before_s)
        if before:
            self.sample.calls[name].append(call)
        else:
            self.sample.first.setdefault(name, call)
        return answer


class RecordedDrafter:
    """An `EdgeDrafter` from the tape."""

    def __init__(self, tape: Tape, stop: Callable[[Drafted], bool] | None = None, *, lots: bool = False) -> None:
        """Play `tape`; `stop` is as for `EdgeDrafter`, `lots` whether a gate will draw lots."""
        self.tape, self.stop, self.lots = tape, stop, lots
        self.positions = Positions()

    @property
    def seconds(self) -> float:
        """See `Drafter`; modelled."""
        return self.tape.edge_s

    @property
    def computed(self) -> int:
        """See `Drafter`."""
        return self.positions.computed

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Drafter`."""
        self.luck = luck
        self.positions.reset(len(prompt.tokens))

    def draft(self, emitted: list[int], most: int, ends: frozenset[int], clock: Callable[[], float]) -> list[Drafted]:
        """See `Drafter`."""
        tape, block, output = self.tape, list[Drafted](), emitted.copy()
        node, positions = tape.at(emitted), self.positions.ask(output, 1)
        while True:
            said = tape.proposal(node, output)
            tape.edge_s += tape.seconds("edge", positions)
            drafted = Drafted(
                token=said.token,
                entropy_nats=said.entropy_nats,
                confidence=said.confidence,
                chance=self.luck.uniform("gate", len(output)) if self.lots else 0.0,
                uncertainty=said.uncertainty,
                at_s=clock(),
            )
            block.append(drafted)
            stop = said.token in ends or (self.stop is not None and self.stop(drafted))
            if stop or len(block) == most:
                return block
            output.append(said.token)
            node, positions = node.child(said.token), self.positions.step()


class RecordedCloud:
    """A `LocalCloud` from the tape."""

    def __init__(self, tape: Tape, verifier: Verifier, how: Verification, ends: frozenset[int]) -> None:
        """Play `tape`; a token of `ends` is the last of any output, so that nobody asks what follows it."""
        self.tape, self.verifier, self.how, self.ends = tape, verifier, how, ends
        self.positions = Positions()

    @property
    def seconds(self) -> float:
        """See `Cloud`; modelled."""
        return self.tape.cloud_s

    @property
    def computed(self) -> int:
        """See `Cloud`."""
        return self.positions.computed

    def reset(self, prompt: Prompt, luck: Luck) -> None:
        """See `Cloud`."""
        self.luck = luck
        self.positions.reset(len(prompt.tokens))

    def judge(self, emitted: list[int], drafted: list[Drafted], unsure: list[bool], room: int) -> list[Verdict]:
        """See `Cloud`."""
        views = self.views(emitted, drafted[: room - 1])
        return judged(views, drafted, unsure, self.verifier, self.how, self.luck, len(emitted))

    def peek(self, emitted: list[int], drafted: list[Drafted]) -> list[float]:
        """See `Cloud`."""
        views = self.views(emitted, drafted[:-1])
        return [view.surprise_nats(d.token) for view, d in zip(views, drafted, strict=True)]

    def views(self, emitted: list[int], fed: list[Drafted]) -> list[View]:
        """As of `LocalCloud`; the trie, or a model, is consulted about a position only when its view is asked."""
        nodes = [self.tape.at(emitted)]
        for d in fed:
            nodes.append(nodes[-1].child(d.token))
        positions = self.positions.ask(emitted + [d.token for d in fed], len(nodes))
        self.tape.cloud_s += self.tape.seconds("cloud", positions)
        if fed and fed[-1].token in self.ends:  # the model has computed it, and nobody asks
            nodes.pop()
        return [RecordedView(self.tape, nodes, at, emitted, fed) for at in range(len(nodes))]


class RecordedView:
    """The `View` on one node."""

    __slots__ = ("at", "drafted", "emitted", "found", "nodes", "tape")

    def __init__(self, tape: Tape, nodes: list[Node], at: int, emitted: list[int], drafted: list[Drafted]) -> None:
        self.tape, self.nodes, self.at, self.emitted, self.drafted = tape, nodes, at, emitted, drafted
        self.found: Answer | None = None

    def answer(self) -> Answer:
        """What the cloud says here."""
        if self.found is None:
            self.found = self.tape.answer(self.nodes, self.at, self.emitted, self.drafted)
        return self.found

    def best(self) -> int:
        """See `View`."""
        return self.answer().best

    def rank(self, token: int) -> int:
        """See `View`; of the token that the edge proposes here."""
        return self.answer().rank

    def surprise_nats(self, token: int) -> float:
        """See `View`; likewise."""
        return self.answer().surprise_nats

    def probabilities(self, sampling: Sampling) -> Tensor:
        """No trace holds whole distributions."""
        raise UserError("A trace holds no distributions to sample from; set task.sweep=live.")
