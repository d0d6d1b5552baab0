"""Trackers: views of a run elsewhere. Records stay the truth; a tracker that fails never fails the run."""

from suite.tracking.schema import TrackerConfig
from suite.tracking.tracker import Tracker, open_tracker
from suite.tracking.view import JobInfo

__all__ = ["JobInfo", "Tracker", "TrackerConfig", "open_tracker"]
