"""Who decided each token: the counts of one decoded sample, and the identities they obey.

Acceptance is ambiguous in the field, so every definition is kept apart: accepted / drafted (what the draft cost),
accepted / tested (how often a verified token stood), accepted per round (its mean length), and by draft position.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SOURCES = ("edge", "accepted", "corrected", "bonus", "cloud")


@dataclass(slots=True)
class Counters:
    """Counts over one sample. A round is one cloud call that answers a draft (or an empty one).

    Attributes:
        rounds: cloud calls.
        drafted: tokens the edge proposed.
        tested: drafted tokens the cloud judged.
        accepted: judged and kept.
        corrected: judged, refused, and replaced by the cloud.
        bonus: the cloud's own next token after a whole draft stood.
        skipped: committed on the edge's word, unverified.
        discarded: drafted and dropped, because an earlier token of the block was refused or the output ended.
        seen: positions the cloud computed, skipped ones it caught up on included.
        histogram: rounds by number of accepted tokens, index 0 to k.
        tested_at: tests by draft position.
        accepted_at: acceptances by draft position.
    """

    rounds: int = 0
    drafted: int = 0
    tested: int = 0
    accepted: int = 0
    corrected: int = 0
    bonus: int = 0
    skipped: int = 0
    discarded: int = 0
    seen: int = 0
    histogram: list[int] = field(default_factory=list)
    tested_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)

    @classmethod
    def for_draft(cls, k: int) -> Counters:
        """Zeroed counters for draft length `k`."""
        return cls(histogram=[0] * (k + 1), tested_at=[0] * k, accepted_at=[0] * k)

    def turn(self, drafted: int, sources: list[str], called: bool) -> None:
        """Count one turn of the loop.

        Args:
            drafted: tokens proposed.
            sources: who decided each token committed, in order. It stands where it was drafted, or instead of what
                was drafted there, so its index is its draft position.
            called: whether the cloud was called.
        """
        for at, source in enumerate(sources):
            if source in ("accepted", "corrected"):
                self.tested_at[at] += 1
                self.accepted_at[at] += source == "accepted"
        accepted, corrected, bonus = (sources.count(source) for source in ("accepted", "corrected", "bonus"))
        self.drafted += drafted
        self.tested += accepted + corrected
        self.accepted += accepted
        self.corrected += corrected
        self.bonus += bonus
        self.skipped += sources.count("edge")
        self.discarded += drafted - (len(sources) - bonus)
        if called:
            self.rounds += 1
            self.histogram[accepted] += 1

    def check(self, emitted: int) -> None:
        """Assert the identities; they hold for every sample, gate and verification."""
        assert sum(self.histogram) == self.rounds
        assert sum(i * n for i, n in enumerate(self.histogram)) == self.accepted == sum(self.accepted_at)
        assert self.accepted + self.corrected + self.bonus + self.skipped == emitted
        assert self.accepted + self.corrected == self.tested == sum(self.tested_at)
        assert self.tested + self.skipped + self.discarded == self.drafted
