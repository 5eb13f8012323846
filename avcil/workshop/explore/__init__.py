"""The playground: panels of widgets over the committed metrics, live training, and single clips.

A panel recomputes what it shows whenever a widget changes; the numbers behind it are attributes, so that a reader can
go on with them in the next cell.
"""

from avcil.workshop.explore.clip import ClipView
from avcil.workshop.explore.panel import Places, print_hint
from avcil.workshop.explore.results import Results
from avcil.workshop.explore.rows import LiveRuns
from avcil.workshop.explore.training import Trainer

__all__ = ["ClipView", "LiveRuns", "Places", "Results", "Trainer", "print_hint"]
