"""Runs of a sweep -> which variant is better, at what, at what price, and how sure that is. No torch.

run folders -> runs.py -> variants.py -> baselines.py -> figures.py -> verdicts.py (sameness.py, statistics.py)
-> wording.py -> page.py
"""

from sagetune.comparison.page import write_comparison

__all__ = ["write_comparison"]
