"""Trackers: views of a run elsewhere. Records stay the truth; a tracker that fails never fails the run."""

from suite.tracking.schema import TrackerConfig
from suite.tracking.tracker import JobInfo, Tracker, open_tracker

__all__ = ["JobInfo", "Tracker", "TrackerConfig", "open_tracker"]
