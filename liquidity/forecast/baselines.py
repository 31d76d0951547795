"""What a forecast has to beat, on the scale of L = log10(liquidity + EPSILON).

Each takes the features of `history_features`. A row with known volume and cap has l0, ew7 and all
means, whatever else is missing: its own day is in every window, so no baseline meets a NaN.
"""

import numpy as np

from liquidity.model.model import HISTORY_FEATURES

_L0, _EW7, _M7, _M30 = (HISTORY_FEATURES.index(name) for name in ("l0", "ew7", "m7", "m30"))


def persistence(X):
    """L stays what it is today, of shape (rows,)."""
    return X[:, _L0] + X[:, _EW7]


def ewma(X):
    """L returns to its exponentially weighted mean of the last days, of shape (rows,)."""
    return X[:, _EW7]


def fit_har(X, y):
    """Coefficients of least squares of y on 1, l0, m7 and m30, of shape (4,).

    The heterogeneous autoregression of Corsi (2009), "A Simple Approximate Long-Memory Model of
    Realized Volatility", J. Financial Econometrics 7(2).
    """
    return np.linalg.lstsq(_har_inputs(X), y, rcond=None)[0]


def har(coefficients, X):
    """HAR's forecast of L, of shape (rows,)."""
    return _har_inputs(X) @ coefficients


def climatology(y, threshold):
    """The share of training rows whose L lies above `threshold` (also on the scale of L)."""
    return float(np.mean(y > threshold))


def _har_inputs(X):
    ew7 = X[:, _EW7]
    return np.column_stack([np.ones(len(X)), X[:, _L0] + ew7, X[:, _M7] + ew7, X[:, _M30] + ew7])
