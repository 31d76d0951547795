"""The search against GridSearchCV, bit by bit, and what happens when processes die."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline

from liquidity.data.table import inputs_and_target
from liquidity.errors import WorkerLost
from liquidity.executors.local import local_executor
from liquidity.search.grid import (
    best_trial,
    candidates,
    cv_results,
    grow_trees,
    out_of_fold,
    ranks,
    search,
    search_key,
)
from liquidity.search.pipeline import PARAM_GRID, build_pipeline, with_forest_params

GRID = {"n_estimators": [4, 8, 12], "max_depth": [None, 2, 5], "min_samples_split": [2, 5, 10]}


@pytest.fixture(scope="module")
def data(sample_table):
    return inputs_and_target(sample_table.head(250))


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def run(
    data, executor, grid=GRID, *, on_trial=lambda trial: None, finished=(), folds=None,
    max_samples=1.0, unscored=(),
):  # fmt: skip
    X, y = data
    return search(
        build_pipeline(random_state=42, max_samples=max_samples),
        X,
        y,
        param_grid=grid,
        folds=folds or list(KFold(5).split(X)),
        executor=executor,
        on_trial=on_trial,
        finished=finished,
        unscored=unscored,
    )


def assert_equals_grid_search(trials, grid, X, y, *, max_samples=None):
    plain = GridSearchCV(
        build_pipeline(random_state=42).set_params(forest__max_samples=max_samples),
        {f"forest__{name}": values for name, values in grid.items()},
        cv=5,
        scoring="r2",
    ).fit(X, y)
    results = cv_results(trials)
    for name in results.keys() - {"params"}:
        assert np.array_equal(results[name], plain.cv_results_[name]), name
    assert {f"forest__{k}": v for k, v in best_trial(trials).params.items()} == plain.best_params_
    assert best_trial(trials).r2 == plain.best_score_


@pytest.mark.parametrize(
    "grid",
    [
        GRID,
        {"n_estimators": [5], "max_depth": [3], "min_samples_split": [2]},
        {"n_estimators": [9, 3, 6], "max_depth": [7, None], "min_samples_split": [5, 2]},
        # Too shallow for min_samples_split to matter: every pair ties.
        {"n_estimators": [3, 6], "max_depth": [1], "min_samples_split": [2, 3]},
    ],
    ids=["27 points", "one candidate", "unsorted", "ties"],
)
def test_all_scores_equal_plain_grid_search_to_the_last_bit(data, executor, grid):
    assert_equals_grid_search(run(data, executor, grid), grid, *data)


# 0.29 of the folds' 200 rows is 57.99... in doubles, of which the forest draws 57.
@pytest.mark.parametrize("share", [0.5, 0.29])
def test_trees_of_a_share_of_the_rows_score_as_in_grid_search(data, executor, share):
    grid = GRID | {"max_depth": [None, 5], "min_samples_split": [2, 10]}
    trials = run(data, executor, grid, max_samples=share)
    assert_equals_grid_search(trials, grid, *data, max_samples=share)


def test_a_constant_target_scores_finite_and_equal(data, executor):
    X, _ = data
    y = np.full(len(X), 0.25)
    grid = GRID | {"max_depth": [None]}
    assert_equals_grid_search(run((X, y), executor, grid), grid, X, y)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        *((RandomForestRegressor, params) for params in (
            {}, {"max_depth": 3}, {"min_samples_split": 7}, {"max_samples": 0.3},
            {"max_samples": 1.0}, {"bootstrap": False},
        )),
        (ExtraTreesRegressor, {}),
        (ExtraTreesRegressor, {"bootstrap": True, "max_samples": 0.3}),
    ],
    ids=str,
)  # fmt: skip
def test_the_grown_trees_are_those_of_the_fitted_forest(data, kind, params):
    X, y = data
    scaled = np.float32(X)
    forest = kind(12, random_state=3, **params)
    grown = list(grow_trees(forest, scaled, y))
    for tree, fitted in zip(grown, forest.fit(scaled, y).estimators_, strict=True):
        for array in ("feature", "threshold", "value", "children_left"):
            assert np.array_equal(getattr(tree.tree_, array), getattr(fitted.tree_, array))


def test_a_tree_that_drew_no_missing_value_is_still_that_of_the_forest(data):
    """Trees are grown on the rows that they drew: some then know of no missing value at all."""
    X, y = data
    scaled = np.float32(X)
    scaled[7, 2] = np.nan
    forest = RandomForestRegressor(12, random_state=3, max_samples=0.5)
    grown = [tree.tree_.__getstate__() for tree in grow_trees(forest, scaled, y)]
    fitted = [tree.tree_.__getstate__() for tree in forest.fit(scaled, y).estimators_]
    for ours, theirs in zip(grown, fitted, strict=True):
        np.testing.assert_array_equal(ours["nodes"], theirs["nodes"])
        np.testing.assert_array_equal(ours["values"], theirs["values"])


def test_the_best_trial_keeps_what_its_forests_answered(data, executor):
    """With the bits of the pipeline fitted anew, as it was taken over from another search too."""
    X, y = data
    folds = list(KFold(5).split(X))
    unscored = [train[: number * 3] for number, (train, _) in enumerate(folds)]
    trials = run(data, executor, folds=folds, unscored=unscored)
    best = best_trial(trials)
    assert all(trial.predictions is None for trial in trials if trial.r2 < best.r2)
    tuned = with_forest_params(build_pipeline(random_state=42), **best.params)
    asked = [np.concatenate([test, more]) for (_, test), more in zip(folds, unscored, strict=True)]
    expected = [
        tuned.fit(X[train], y[train]).predict(X[rows])
        for (train, _), rows in zip(folds, asked, strict=True)
    ]
    resumed = best_trial(run(data, executor, finished=trials, folds=folds, unscored=unscored))
    assert resumed.predictions is None
    fresh = with_forest_params(build_pipeline(random_state=42), **best.params)
    again = out_of_fold(fresh, X, y, folds=folds, unscored=unscored, executor=executor)
    # The folds fit at the same time: each a copy, or they would use one another's scaler.
    assert not hasattr(fresh[0], "mean_")
    for found in (best.predictions, again):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_workers_score_the_same_bits_and_a_killed_one_is_an_error_and_not_a_hang(data, executor):
    grid = GRID | {"max_depth": [None]}
    by_threads = [trial.fold_scores for trial in run(data, executor, grid)]

    def compare_and_kill():
        with local_executor(2) as processes:
            assert [trial.fold_scores for trial in run(data, processes, grid)] == by_threads
            workers = list(processes._processes)

            def kill_one(trial):  # with the first trial
                if workers:
                    os.kill(workers.pop(), signal.SIGKILL)
                    workers.clear()

            run(data, processes, on_trial=kill_one)

    with pytest.raises(WorkerLost, match="a worker process was killed"):
        compare_and_kill()


def test_ties_rank_as_in_grid_search(data, executor):
    grid = {"n_estimators": [3], "max_depth": [1], "min_samples_split": [2, 3]}
    trials = run(data, executor, grid)
    assert ranks(trials) == [1, 1]
    assert best_trial(trials).params["min_samples_split"] == 2


def test_every_trial_is_announced_once_in_the_calling_thread(data, executor):
    announced = []
    trials = run(data, executor, on_trial=announced.append)
    assert len(announced) == 27
    assert {trial.key for trial in announced} == {trial.key for trial in trials}
    assert [trial.params for trial in trials] == candidates(GRID)


def test_finished_trials_are_taken_over_and_only_the_rest_is_fitted(data, executor):
    complete = run(data, executor)
    finished = [trial for trial in complete if trial.params != {
        "n_estimators": 8, "max_depth": 2, "min_samples_split": 5}]  # fmt: skip
    announced = []
    resumed = run(data, executor, finished=finished, on_trial=announced.append)
    assert len(announced) == 1, "a part of a shared forest was missing"
    assert [t.fold_scores for t in resumed] == [t.fold_scores for t in complete]


def test_fit_seconds_are_shared_out_by_trees(data, executor):
    grid = {"n_estimators": [5, 10], "max_depth": [3], "min_samples_split": [2]}
    small, large = run(data, executor, grid)
    assert 0 < small.fit_seconds == pytest.approx(large.fit_seconds / 2)


def test_the_key_knows_all_that_scores_depend_on(data):
    X, y = data
    folds = list(KFold(5).split(X))
    pipeline = build_pipeline(random_state=42)
    key = search_key(pipeline, X, y, folds=folds, searched=PARAM_GRID)
    assert key == search_key(
        build_pipeline(random_state=42), X.copy(), y.copy(), folds=folds, searched=PARAM_GRID
    )
    changed_X, changed_y = X.copy(), y.copy()
    changed_X[-1, 0] += 1
    changed_y[-1] += 1
    others = {
        search_key(pipeline, changed_X, y, folds=folds, searched=PARAM_GRID),
        search_key(pipeline, X, changed_y, folds=folds, searched=PARAM_GRID),
        search_key(pipeline, X, y, folds=list(KFold(4).split(X)), searched=PARAM_GRID),
        search_key(build_pipeline(random_state=43), X, y, folds=folds, searched=PARAM_GRID),
        search_key(
            build_pipeline(random_state=42, max_samples=0.5), X, y, folds=folds, searched=PARAM_GRID
        ),
    }
    other_forest = Pipeline([pipeline.steps[0], ("forest", ExtraTreesRegressor(bootstrap=True))])
    other_forest.set_params(forest__random_state=42)
    others.add(search_key(other_forest, X, y, folds=folds, searched=PARAM_GRID))
    assert len(others | {key}) == 7
    searched = pipeline.set_params(forest__n_estimators=7, forest__max_depth=3)
    assert search_key(searched, X, y, folds=folds, searched=PARAM_GRID) == key


def test_workers_end_with_a_killed_parent():
    """They would hold its stdout open, and whoever reads that would wait for ever."""
    code = (
        "import time; from liquidity.executors.local import local_executor\n"
        "with local_executor(2) as executor:\n"
        "    print(*executor.map(abs, [1, 2]), flush=True)\n"
        "    time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert parent.stdout.readline() == b"1 2\n"
    parent.kill()
    started = time.monotonic()
    parent.stdout.read()  # returns when the last holder of the pipe is gone
    parent.wait()
    parent.stdout.close()
    assert time.monotonic() - started < 10
