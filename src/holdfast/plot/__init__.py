"""Plots of an experiment with matplotlib: results, attempts over time, what processes reported.

The extra `plot` brings matplotlib; `import holdfast` does not load this. Each function draws into
the axes that it is given, or else into a figure of its own, and returns the axes: nothing is shown
or saved that you do not show or save.
"""

from holdfast.plot.progress import progress
from holdfast.plot.results import results
from holdfast.plot.timeline import timeline

__all__ = ["progress", "results", "timeline"]
