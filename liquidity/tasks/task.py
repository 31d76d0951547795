"""What the two tasks have in common."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd


class Worth(NamedTuple):
    """What a forest is worth on the test rows, for every text that says it.

    `conclusion` is one or two sentences, `figures` a clause of the figures that a version is known
    by, `scores` r2 by whose it is, the tuned forest's first, and `sureness` what is known of the
    interval and of High.
    """

    conclusion: str
    figures: str
    scores: dict[str, float]
    sureness: str


@dataclass(frozen=True)
class Task:
    """Rows to learn from and to test on, in the form that the search takes.

    `table` holds every usable row, with the column `set`, `training` and `test` those of these
    sets, in the order in which they are learned from. `X` of shape (rows, inputs) and `y` of
    shape (rows,) are what a forest is fitted on, at the positions that `fit_rows` gives for all of
    them and `folds` for each fold; `offset`, where there is one, is what r2 is taken with.

    A task's `calibrate` takes what the tuned forest, fitted on the training rows of each fold,
    answers for rows that it has not seen: those that score, and then those of `unscored`.
    `evaluate` takes what `start_baseline` has returned before the search.
    """

    horizon: int
    table: pd.DataFrame
    training: pd.DataFrame
    test: pd.DataFrame
    X: np.ndarray
    y: np.ndarray
    fit_rows: np.ndarray
    folds: list
    offset: np.ndarray | None = None

    features: ClassVar = ()
    unscored: ClassVar = ()

    @property
    def ahead(self):
        """How many days ahead this task looks, as words; empty for the same day."""
        return f"{in_days(self.horizon)} ahead" if self.horizon else ""


def in_days(count):
    """So many days, as words."""
    return "1 day" if count == 1 else f"{count} days"


def beside(gain):
    """How a score lies beside another one that is less by `gain`, as words."""
    if abs(gain) < 0.00005:
        return "equal to"
    return f"{abs(gain):.4f} {'above' if gain > 0 else 'below'}"
