"""Liquidity of the same coin some days later, from the coin's own last 90 days."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd

from liquidity.contract import (
    COIN,
    COVERAGE,
    DATE,
    EPSILON,
    FORECAST_FEATURES,
    RATIO,
    TARGET,
    THRESHOLD,
    percent,
)
from liquidity.errors import MarketDataError, SettingsError
from liquidity.forecast import baselines, skill
from liquidity.forecast.intervals import fit_intervals, groups, interval, p_high
from liquidity.forecast.panel import (
    cut_features,
    cut_histories,
    embargo_split,
    horizon_target,
    repeat_young,
    time_folds,
)
from liquidity.forecast.weekdays import weekday_profile
from liquidity.model.model import (
    ABSD30,
    DAYS,
    EW7,
    L0,
    LAG1,
    LONG_HISTORY,
    history_features,
    logarithms,
)
from liquidity.report.forecast_plots import forecast_figures
from liquidity.tasks.task import Task, Worth, beside, in_days

LEAST_DAYS = 30  # of data beside the horizon
LEAST_ROWS = 100  # of a month or a group whose coverage is quoted
# Rows of coins that are really young train so many times, which brings up to .02 of r2 for them
# and costs others nothing up to a week ahead; a month ahead it costs .005.
YOUNG_TIMES = 4
LONGEST_YOUNG = 7  # days ahead
HIGH = float(np.log10(THRESHOLD + EPSILON))


class Panel(NamedTuple):
    """A market frame with what all horizons need of it: the columns of `history_features` as
    arrays, its answer for every row, and L = log10(liquidity + EPSILON), of shape (rows,).
    """

    frame: pd.DataFrame
    columns: tuple
    X: np.ndarray
    days_used: np.ndarray
    level: np.ndarray


def read_panel(frame):
    """The Panel of a checked market frame."""
    columns = (
        pd.factorize(frame[COIN])[0],
        frame[DATE].to_numpy("datetime64[D]").astype(np.int64),
        *(frame[name].to_numpy(float) for name in FORECAST_FEATURES),
    )
    X, days_used = history_features(*columns)
    return Panel(frame, columns, X, days_used, logarithms(*columns[2:])[0])


@dataclass(frozen=True)
class Forecast(Task):
    """A forest of L(date + horizon) - ew7; see Task.

    The first rows of X are the training rows as they are, on which trials are scored; behind them
    are those whose history is cut, as they train. `X_test`, `days_used` and `days_used_test` are
    the history features of the test rows and the days present in all of them.
    """

    days_used: np.ndarray = field(default=None)
    cut_rows: np.ndarray = field(default=None)
    X_test: np.ndarray = field(default=None)
    days_used_test: np.ndarray = field(default=None)

    features: ClassVar = FORECAST_FEATURES

    @property
    def level(self):
        """L at the horizon of each row of X."""
        return self.y + self.offset

    def describe_target(self):
        """What was learned, as metadata of the model."""
        y = self.training[TARGET]
        day = self.training[DATE].to_numpy("datetime64[D]").astype(np.int64)
        own = self.X[: len(self.training)]
        return {
            "target": f"{TARGET} = {RATIO} of the same coin {in_days(self.horizon)} after its date",
            "target_is_ratio": False,
            "target_range": [float(y.min()), float(y.max())],
            # Told apart from files that call a day otherwise by it.
            "weekday_profile": weekday_profile(day, own[:, L0] - own[:, LAG1]),
        }

    @property
    def unscored(self):
        """The scoring rows of each fold once more, those with their history cut."""
        rows = len(self.training)
        behind = np.full(rows, -1)
        behind[self.cut_rows] = rows + np.arange(len(self.cut_rows))
        return [behind[test][behind[test] >= 0] for _, test in self.folds]

    def calibrate(self, unseen):
        """The interval as metadata of the model, from residuals of rows with their history as it
        is and cut; see Task.
        """
        mu = np.full(len(self.y), np.nan)
        for (_, test), cut, y_pred in zip(self.folds, self.unscored, unseen, strict=True):
            both = np.concatenate([test, cut])
            mu[both] = y_pred + self.offset[both]
        return self._calibrated(mu)

    def calibrate_har(self):
        """HAR's interval of the same kind, to compare with."""
        y, mu = self.level, np.full(len(self.y), np.nan)
        for train, test in self.folds:
            coefficients = baselines.fit_har(self.X[train], y[train])
            mu[test] = baselines.har(coefficients, self.X[test])
        return self._calibrated(mu)

    def _calibrated(self, mu):
        known = ~np.isnan(mu)
        cut = np.arange(len(mu)) >= len(self.training)
        return fit_intervals(
            (self.level - mu)[known],
            self.X[known][:, ABSD30],
            self.days_used[known],
            cut[known],
        )

    def start_baseline(self, pipeline, executor):
        """None: HAR is what a forecast has to beat."""

    def evaluate(self, fitted, interval_, _untuned):
        """Metrics on the test rows, baselines among them, and figures by file name."""
        X, day = self.X_test, self.test[DATE].to_numpy("datetime64[D]").astype(np.int64)
        y = np.log10(self.test[TARGET].to_numpy() + EPSILON)
        rows = len(self.training)
        coefficients = baselines.fit_har(self.X[:rows], self.level[:rows])
        mu = fitted.predict(X) + X[:, EW7]
        har = baselines.har(coefficients, X)
        group = groups(interval_, X, self.days_used_test)
        lower, upper = interval(interval_, mu, group)
        p = p_high(interval_, mu, group, threshold=THRESHOLD)
        har_interval = self.calibrate_har()
        har_group = groups(har_interval, X, self.days_used_test)
        har_lower, har_upper = interval(har_interval, har, har_group)
        volatility = skill.deciles(X[:, ABSD30])
        high = y > HIGH
        low_gain, high_gain = skill.gain_interval(y, mu, har, day, random_state=0)
        persistence = baselines.persistence(X)
        metrics = {
            "test_r2": skill.r2(y, mu),
            "persistence_test_r2": skill.r2(y, persistence),
            "ewma_test_r2": skill.r2(y, baselines.ewma(X)),
            "har_test_r2": skill.r2(y, har),
            "har_gain": skill.r2(y, mu) - skill.r2(y, har),
            "har_gain_lower": low_gain,
            "har_gain_upper": high_gain,
            "test_spearman": skill.spearman_per_date(y, mu, day),
            "har_test_spearman": skill.spearman_per_date(y, har, day),
            "test_brier": skill.brier(high, p),
            "har_test_brier": skill.brier(
                high, p_high(har_interval, har, har_group, threshold=THRESHOLD)
            ),
            "climatology_test_brier": skill.brier(
                high, baselines.climatology(self.level[:rows], HIGH)
            ),
            "test_interval_score": skill.interval_score(y, lower, upper),
            "har_interval_score": skill.interval_score(y, har_lower, har_upper),
            "interval_coverage": skill.coverage(y, lower, upper),
            "interval_coverage_worst_month": skill.worst_coverage(
                y, lower, upper, skill.months(day), fewest=LEAST_ROWS
            ),
            "interval_coverage_worst_group": skill.worst_coverage(
                y, lower, upper, volatility, fewest=LEAST_ROWS
            ),
            "typical_error": skill.typical_error(y, mu),
            "persistence_typical_error": skill.typical_error(y, persistence),
            "within_factor_2": skill.within_factor(y, mu, 2),
            "persistence_within_factor_2": skill.within_factor(y, persistence, 2),
        }
        figures = forecast_figures(
            y,
            mu,
            lower,
            upper,
            p,
            persistence=persistence,
            day=day,
            volatility=volatility,
            days_used=self.days_used_test,
            horizon=self.horizon,
        )
        return {name: float(value) for name, value in metrics.items()}, figures

    def worth(self, metrics):
        """The Worth of the forest with these metrics."""
        r2, gain, low = (metrics[name] for name in ("test_r2", "har_gain", "har_gain_lower"))
        sure = f"95 % {low:+.4f} to {metrics['har_gain_upper']:+.4f}"
        if not low > 0:
            sure = f"not clearly better: {sure}"
        if math.isnan(low):
            sure = "too few days to say how sure that is"
        holds = f"the {percent(COVERAGE)} interval holds {metrics['interval_coverage']:.1%}"
        worst = metrics["interval_coverage_worst_month"]
        month = "" if math.isnan(worst) else f", {worst:.1%} in the worst month"
        return Worth(
            f"In {in_days(self.horizon)} the typical error is "
            f"{metrics['typical_error']:.0%} instead of {metrics['persistence_typical_error']:.0%} "
            f"if nothing changed; {metrics['within_factor_2']:.0%} instead of "
            f"{metrics['persistence_within_factor_2']:.0%} are within a factor of two. The "
            f"forest's r2 of log10({TARGET} + {EPSILON:g}), {r2:.4f}, is "
            f"{beside(r2 - metrics['persistence_test_r2'])} that of today's liquidity and "
            f"{beside(gain)} that of HAR, a regression on the means of 1, 7 and 30 days ({sure}).",
            f"test r2 {r2:.4f} of log10({TARGET} + {EPSILON:g}), HAR {metrics['har_test_r2']:.4f}, "
            f"typical error {metrics['typical_error']:.0%}, {holds}",
            {
                "tuned forest": r2,
                "HAR": metrics["har_test_r2"],
                "weighted mean of the last days": metrics["ewma_test_r2"],
                "today's liquidity": metrics["persistence_test_r2"],
            },
            f"{holds} of the test rows{month}; P(High): Brier score {metrics['test_brier']:.4f}, "
            f"HAR {metrics['har_test_brier']:.4f}, the share of High rows "
            f"{metrics['climatology_test_brier']:.4f}",
        )


def prepare(panel, horizon, *, split, test_size, cv, max_samples, random_state):
    """The task of a panel; raises MarketDataError where there is too little of it."""
    if split != "date":
        raise SettingsError(
            f"--split {split}: a forecast is tested on later dates than it learns from; use date."
        )
    frame, (coin, day, *_), X, days_used, level = panel
    days = np.unique(day)
    if len(days) < horizon + LEAST_DAYS:
        raise MarketDataError(
            f"A forecast of {in_days(horizon)} needs snapshots of at least {horizon + LEAST_DAYS} "
            f"days, got {len(days)}: add snapshots or lower --horizon."
        )
    y = horizon_target(coin, day, level, horizon=horizon)
    known = np.flatnonzero(~np.isnan(y) & ~np.isnan(level))
    dates = np.unique(day[known])
    count = round(test_size * len(dates))
    start = dates[-max(count, 1)] if len(dates) else 0
    train, gap, test = (
        known[rows] for rows in embargo_split(day[known], start=start, horizon=horizon)
    )
    folds = time_folds(day[train], cv=cv, horizon=horizon) if len(train) else []
    smallest = min((min(len(a), len(b)) for a, b in folds), default=0)
    if len(test) < 2 or len(folds) < cv or smallest < 2 or int(max_samples * smallest) < 1:
        raise MarketDataError(
            f"{len(known):,} of {len(frame):,} rows have a value {in_days(horizon)} later, on "
            f"{len(dates)} dates; that is too little for {cv} folds and a test in time order, "
            f"each {in_days(horizon)} apart: add snapshots, lower --cv or --horizon."
        )
    # What a forest that only ever saw long histories makes of a coin that is sent alone is worse
    # than today's liquidity; so some rows train with a shorter one.
    allowed = cut_histories(len(train), random_state=random_state)
    cut = np.flatnonzero(allowed < DAYS)
    X_cut, used_cut = cut_features(X, days_used, panel.columns, train[cut], allowed[cut])
    position = np.arange(len(train))
    position[cut] = len(train) + np.arange(len(cut))
    young = (days_used[train] < LONG_HISTORY) & (allowed == DAYS)

    times = YOUNG_TIMES if horizon <= LONGEST_YOUNG else 1

    def to_fit(rows):
        """Positions in X of training rows, as they train."""
        return position[repeat_young(rows, young, times=times)]

    X_all = np.concatenate([X[train], X_cut])
    offset = X_all[:, EW7]
    table = frame.loc[:, [DATE, COIN, *FORECAST_FEATURES]].copy()
    table[TARGET] = np.maximum(10**y - EPSILON, 0)
    table["set"] = "none"
    for name, rows in (("train", train), ("gap", gap), ("test", test)):
        table.iloc[rows, table.columns.get_loc("set")] = name
    return Forecast(
        horizon,
        table,
        table.iloc[train],
        table.iloc[test],
        X_all,
        np.concatenate([y[train], y[train][cut]]) - offset,
        to_fit(np.arange(len(train))),
        [(to_fit(before), after) for before, after in folds],
        offset,
        days_used=np.concatenate([days_used[train], used_cut]),
        cut_rows=cut,
        X_test=X[test],
        days_used_test=days_used[test],
    )
