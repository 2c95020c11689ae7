"""SIAS: which samples are worth training on.

    samples -> features (scoring.py, embedding.py, warmup.py) -> a strategy (strategies.py) -> indices -> samples

`CoresetSelector` selects from a pool, `RowChooser` from the candidate batches of a training step.
"""

from sagetune.selection.rows import RowChooser
from sagetune.selection.selector import CoresetSelector, Selection

__all__ = ["CoresetSelector", "RowChooser", "Selection"]
