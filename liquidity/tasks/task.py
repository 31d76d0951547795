"""What the two tasks have in common."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Task:
    """Rows to learn from and to test on, in the form that the search takes.

    `table` holds every usable row, with the column `set`, `training` and `test` those of these
    sets, in the order in which they are learned from. `X` of shape (rows, inputs) and `y` of
    shape (rows,) are what a forest is fitted on, at the positions that `fit_rows` gives for all of
    them and `folds` for each fold; `offset`, where there is one, is what r2 is taken with.
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
