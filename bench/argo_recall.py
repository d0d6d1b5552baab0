"""How many of the supporting passages the three retrievers find for the questions' own words.

    python -m bench.argo_recall                        oran_mini, test and dev; half a minute the first time
    python -m bench.argo_recall FILE.jsonl             multi-hop rows that bring their paragraphs

Recall@k is the share of all supporting passages among the top k, with a 95 % interval over the questions. Hops that a
question does not name are not found by its own words: that is what sub-queries are for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from argo.chroma import Chroma
from argo.corpus import Passage
from argo.embed import Embedder
from argo.questions import LEVELS, Question, read_questions
from argo.retrieve import Bm25, Exact, Retriever, recall_at
from argo.schema import QuestionsConfig
from suite.config import RunConfig
from suite.errors import UserError
from zoo.oran_mini.recipe import EMBEDDER

KS = (1, 3, 10)


def row(name: str, retriever: Retriever, questions: Sequence[Question]) -> str:
    """One line: recall at each k with its interval."""
    cells = []
    for k in KS:
        found = recall_at(k, retriever, questions)
        low, high = found.ci95 or (float("nan"), float("nan"))
        cells.append("none to find" if found.value is None else f"{found.value:.3f} [{low:.3f}, {high:.3f}]")
    return f"  {name:<8}" + "".join(f"  @{k} {cell:<22}" for k, cell in zip(KS, cells, strict=True))


def retrievers(passages: Sequence[Passage]) -> dict[str, Retriever]:
    """All three over one corpus; says what opening each took."""
    embedder = Embedder(RunConfig(models={"embedder": EMBEDDER}))
    makers: dict[str, Callable[[], Retriever]] = {
        "bm25": lambda: Bm25(passages),
        "exact": lambda: Exact(passages, embedder),
        "chroma": lambda: Chroma(passages, embedder),
    }
    opened = {}
    for name, make in makers.items():
        start = time.perf_counter()
        opened[name] = make()
        print(f"  {name:<8}  opened in {time.perf_counter() - start:.2f} s")
    return opened


def show(dataset: QuestionsConfig) -> None:
    """Print the recall of every retriever on one data set, by difficulty where it is told."""
    data = read_questions(dataset, None)
    print(f"{dataset.path or dataset.name}, {dataset.split}: {len(data.questions)} questions")
    print(f"  {len(data.passages)} passages, {data.notes['passages left out as duplicates']} left out as duplicates")
    opened = retrievers(data.passages)
    for level in ("all", *LEVELS):
        asked = [question for question in data.questions if level in ("all", question.difficulty)]
        if asked:
            print(f"  {level}, {len(asked)} questions")
            for name, retriever in opened.items():
                print(row(name, retriever, asked))
    _agreement(opened, data.questions)


def _agreement(opened: dict[str, Retriever], questions: Sequence[Question]) -> None:
    """How often the approximate index answers as the exact search does."""
    asked = [question.question for question in questions]
    ours, theirs = (
        [[hit.id for hit in hits] for hits in opened[name].search(asked, 10)] for name in ("exact", "chroma")
    )
    alike = sum(one == other for one, other in zip(ours, theirs, strict=True))
    print(f"  chroma's top 10 is exact's, order included, for {alike} of {len(asked)} questions")


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE.jsonl", help="multi-hop rows instead of oran_mini")
    file = parser.parse_args().file
    try:
        if file is not None:
            show(QuestionsConfig(name="multihop", path=str(file), difficulty="mixed"))
        else:
            for split in ("test", "dev"):
                show(QuestionsConfig(difficulty="mixed", split=split))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
