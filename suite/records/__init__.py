"""Records: what a job computed, kept so that the same command never computes it twice."""

from suite.records.samples import SampleLog
from suite.records.store import Job, claim, fingerprint

__all__ = ["Job", "SampleLog", "claim", "fingerprint"]
