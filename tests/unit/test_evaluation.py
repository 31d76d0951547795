"""Splits, folds, metrics, baselines and the interval."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, train_test_split

from liquidity import evaluation
from liquidity.contract import COVERAGE
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.errors import MarketDataError
from liquidity.model.compile import Compiled
from liquidity.search.grid import held_out_r2, out_of_fold
from liquidity.search.pipeline import build_pipeline, fit_pipeline, with_forest_params

SETTINGS = {"test_size": 0.2, "random_state": 42}


def coins_of(table, rows):
    return set(table["coin"].iloc[rows])


def test_no_coin_of_the_real_days_is_on_both_sides(real_data):
    table = build_table(read_market(real_data / "seed/coin_gecko_*.csv")[0])
    train, test = evaluation.split_rows(table, split="coin", **SETTINGS)
    assert not coins_of(table, train) & coins_of(table, test)
    assert sorted([*train, *test]) == list(range(len(table)))
    training = table.iloc[train]
    for fit, score in evaluation.make_folds(training, split="coin", cv=5):
        assert not coins_of(training, fit) & coins_of(training, score)


def test_a_coin_stays_on_its_side_as_the_data_grows(sample_table):
    early = sample_table[sample_table["date"] == sample_table["date"].min()].reset_index(drop=True)
    _, test_early = evaluation.split_rows(early, split="coin", **SETTINGS)
    _, test_all = evaluation.split_rows(sample_table, split="coin", **SETTINGS)
    present = set(early["coin"])
    assert coins_of(early, test_early) == coins_of(sample_table, test_all) & present
    other = evaluation.split_rows(early, split="coin", test_size=0.2, random_state=43)[1]
    assert coins_of(early, other) != coins_of(early, test_early)


def test_random_is_train_test_split_and_kfold(sample_table):
    train, test = evaluation.split_rows(sample_table, split="random", **SETTINGS)
    expected = train_test_split(np.arange(len(sample_table)), **SETTINGS)
    assert np.array_equal(train, expected[0])
    assert np.array_equal(test, expected[1])
    folds = evaluation.make_folds(sample_table.iloc[train], split="random", cv=5)
    for (fit, score), (fit_, score_) in zip(folds, KFold(5).split(train), strict=True):
        assert np.array_equal(fit, fit_)
        assert np.array_equal(score, score_)


def test_date_trains_on_the_past(sample_table):
    train, test = evaluation.split_rows(sample_table, split="date", **SETTINGS)
    training = sample_table.iloc[train]
    assert training["date"].max() < sample_table["date"].iloc[test].min()
    folds = evaluation.make_folds(training, split="date", cv=5)
    assert len(folds) == 2, "three training dates leave two steps ahead"
    for fit, score in folds:
        assert training["date"].iloc[fit].max() < training["date"].iloc[score].min()


@pytest.mark.parametrize(
    ("split", "rows", "test_size", "message"),
    [
        ("date", 1, 0.2, "at least 3 dates"),
        ("coin", 1, 0.2, "1 rows of 1 coins are too few for split=coin"),
        ("coin", 30, 0.999, "30 rows would test and 0 train"),
        ("random", 1, 0.2, "1 rows of 1 coins are too few for split=random"),
        ("random", 5, 0.2, "1 rows would test and 4 train"),
        ("random", 5, 0.8, "4 rows would test and 1 train"),
    ],
)
def test_too_little_to_split_is_said(sample_table, split, rows, test_size, message):
    with pytest.raises(MarketDataError, match=message):
        evaluation.split_rows(
            sample_table.head(rows), split=split, test_size=test_size, random_state=42
        )


@pytest.mark.parametrize(("split", "cv"), [("coin", 40), ("random", 40), ("random", 20)])
def test_too_little_for_the_folds_is_said(sample_table, split, cv):
    with pytest.raises(MarketDataError, match=f"cv={cv} folds with split={split} need"):
        evaluation.make_folds(sample_table.head(30), split=split, cv=cv)


def test_a_share_that_draws_no_row_of_the_smallest_fold_is_said(sample_table):
    table = sample_table.head(30)
    message = "max_samples=0.04 draws no row of the 24 that the smallest fold trains on"
    with pytest.raises(MarketDataError, match=message):
        evaluation.make_folds(table, split="random", cv=5, max_samples=0.04)
    assert len(evaluation.make_folds(table, split="random", cv=5, max_samples=0.05)) == 5


def test_a_shallow_forest_is_told_from_a_good_one_by_log_r2():
    y = np.array([0.001, 0.01, 0.1, 5.0])
    flat = np.array([0.05, 0.05, 0.05, 5.0])
    assert evaluation.log_r2(y, y) == 1
    assert evaluation.log_r2(y, flat) < 0.8
    assert evaluation.final_metrics(y, flat, quantile=1.0)["test_r2"] > 0.99


def test_metrics_without_a_high_row_are_zero_and_finite():
    y = np.array([0.1, 0.2, 0.3])
    metrics = evaluation.final_metrics(y, y, quantile=0.0)
    assert metrics["high_f1"] == 0
    assert metrics["interval_coverage"] == 1
    assert np.isfinite(list(metrics.values())).all()


def test_the_formula_is_exact_where_it_is_the_target(sample_table):
    train, test = sample_table[:600], sample_table[600:]
    metrics = evaluation.baseline_metrics(train, test)
    assert metrics["formula_test_r2"] == 1
    assert metrics["mean_test_r2"] < 0


def test_the_untuned_forest_and_the_importances_have_scikit_learns_bits(sample_table):
    """Without a forest in memory, and from compiled trees."""
    (X, y), (X_test, y_test) = map(inputs_and_target, (sample_table[:600], sample_table[600:]))
    pipeline = with_forest_params(build_pipeline(random_state=0), n_estimators=30)
    fitted = fit_pipeline(pipeline, X, y, n_jobs=2)
    expected = r2_score(y_test, fitted.predict(X_test))
    assert held_out_r2(X, y, X_test, y_test, pipeline=pipeline) == expected > 0
    theirs, ours = (
        permutation_importance(way, X_test, y_test, scoring="r2", n_repeats=2, random_state=0)
        for way in (fitted, Compiled(fitted))
    )
    np.testing.assert_array_equal(ours.importances, theirs.importances)


def test_the_quantile_covers_its_share_of_unseen_rows(sample_table):
    X, y = inputs_and_target(sample_table)
    pipeline = build_pipeline(random_state=0).set_params(forest__n_estimators=20)
    folds = evaluation.make_folds(sample_table, split="coin", cv=5)
    with ThreadPoolExecutor(1) as executor:
        y_pred = np.concatenate(out_of_fold(pipeline, X, y, folds=folds, executor=executor))
    y_fold = np.concatenate([y[test] for _, test in folds])
    quantile = evaluation.interval_quantile(y_fold, y_pred)
    inside = []
    for train, test in folds:
        y_pred = pipeline.fit(X[train], y[train]).predict(X[test])
        inside.extend(evaluation.log_residuals(y[test], y_pred) <= quantile)
    assert np.mean(inside) == pytest.approx(COVERAGE, abs=0.002)
