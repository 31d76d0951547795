"""The grid search: GridSearchCV's candidates, folds, scores and ranking, at half its cost.

A forest with `random_state` r and 100 trees is the first 100 trees of the forest with the same r
and 300 trees. So only the largest forest of each (max_depth, min_samples_split) is fitted, and
every smaller one is scored from cumulated tree predictions, with the bits that GridSearchCV gets.
No forest is ever held in memory: a tree is grown, asked and dropped.
"""

import hashlib
import time
from collections import defaultdict
from concurrent.futures import as_completed
from dataclasses import dataclass

import numpy as np
import sklearn
from scipy.stats import rankdata
from sklearn.metrics import r2_score
from sklearn.model_selection import ParameterGrid

from liquidity.search.pipeline import FOREST, with_forest_params

SIZE = "n_estimators"
FOLD_METRIC = "r2_fold_"


@dataclass(frozen=True)
class Trial:
    """One grid point: its params, r2 per fold, and the seconds that its trees took to fit."""

    params: dict
    fold_scores: tuple[float, ...]
    fit_seconds: float

    @property
    def key(self):
        """The params as something to look the trial up by."""
        return _key(self.params)

    @property
    def r2(self):
        """Mean over the folds, computed as GridSearchCV does."""
        return float(np.average(np.array(self.fold_scores)))

    @property
    def r2_std(self):
        """Standard deviation over the folds, computed as GridSearchCV does."""
        scores = np.array(self.fold_scores)
        return float(np.sqrt(np.average((scores - self.r2) ** 2)))

    @property
    def metrics(self):
        """All that is logged of it, by name; `from_metrics` reads it back."""
        return {
            "r2": self.r2,
            "r2_std": self.r2_std,
            **{f"{FOLD_METRIC}{n}": score for n, score in enumerate(self.fold_scores, 1)},
            "fit_seconds": self.fit_seconds,
        }

    @classmethod
    def from_metrics(cls, params, metrics, *, folds):
        """The trial whose `metrics` these are; raises KeyError where one is missing."""
        scores = tuple(metrics[f"{FOLD_METRIC}{n}"] for n in range(1, folds + 1))
        return cls(params, scores, metrics["fit_seconds"])


def candidates(param_grid):
    """All grid points in GridSearchCV's order."""
    return list(ParameterGrid(param_grid))


def search(pipeline, X, y, *, param_grid, folds, executor, on_trial, finished=(), offset=None):
    """Score every grid point by cross-validated r2 and return the trials in grid order.

    `executor` is any concurrent.futures executor; `on_trial(trial)` is called here, in the
    calling thread, as soon as all folds of a grid point are scored. Trials in `finished` are
    taken over as they are. r2 is that of y + `offset`, of shape (rows,), where there is one: what
    a forecast's forest leaves out of its target.
    """
    trials = {trial.key: trial for trial in finished}
    missing = defaultdict(list)
    for params in candidates(param_grid):
        if _key(params) not in trials:
            shared = {name: value for name, value in params.items() if name != SIZE}
            missing[_key(shared)].append(params)

    scored = defaultdict(dict)
    futures = {
        executor.submit(
            fit_fold,
            X,
            y,
            train,
            test,
            offset,
            pipeline=with_forest_params(pipeline, **_largest(points)),
            sizes=sorted(point[SIZE] for point in points),
        ): (group, number)
        for group, points in missing.items()
        for number, (train, test) in enumerate(folds)
    }
    for future in as_completed(futures):
        group, number = futures[future]
        scored[group][number] = future.result()
        if len(scored[group]) < len(folds):
            continue
        by_fold = [scored[group][number] for number in range(len(folds))]
        for params in sorted(missing[group], key=lambda point: point[SIZE]):
            trial = Trial(
                params,
                tuple(scores[params[SIZE]] for scores, _ in by_fold),
                # The trees of a forest cost alike, so a smaller forest costs its share.
                sum(seconds for _, seconds in by_fold)
                * params[SIZE]
                / _largest(missing[group])[SIZE],
            )
            trials[trial.key] = trial
            on_trial(trial)
    return [trials[_key(params)] for params in candidates(param_grid)]


def fit_fold(X, y, train, test, offset=None, *, pipeline, sizes):
    """Fit `pipeline` on `train`, score r2 on `test` for its first `sizes` trees (ascending).

    r2 is that of y + `offset` where there is one. Returns `({size: r2}, seconds of fitting)`. Sums
    and casts are those of RandomForestRegressor.predict, in its order, so that not even the last
    bit differs.
    """
    started = time.perf_counter()
    scaled = np.float32(pipeline[:-1].fit_transform(X[train], y[train]))
    scaled_test = np.float32(pipeline[:-1].transform(X[test]))
    offset = 0.0 if offset is None else offset[test]
    total = np.zeros(len(test))
    scores, scoring_seconds = {}, 0.0
    for count, tree in enumerate(grow_trees(pipeline[-1], scaled, y[train]), 1):
        grown = time.perf_counter()
        total += tree.predict(scaled_test, check_input=False)
        if count in sizes:
            scores[count] = float(r2_score(y[test] + offset, total / count + offset))
        scoring_seconds += time.perf_counter() - grown
    return scores, time.perf_counter() - started - scoring_seconds


def grow_trees(forest, X, y):
    """Yield the fitted trees of `forest.fit(X, y)` one after the other and keep none of them.

    X is float32 and may hold NaN, the forest's `max_samples` None or a share of the rows. The draws
    are those of scikit-learn's forests: a seed per tree, and from it the bootstrap sample, where
    there is one. One tree in memory instead of a forest is what lets hundreds of thousands of rows
    be searched.
    """
    seeds = np.random.RandomState(forest.random_state)
    params = {name: getattr(forest, name) for name in forest.estimator_params}
    rows = len(X)
    # Without its check a tree has no mask of missing values, and is silently another one. Where
    # nothing is missing, leaving it out saves a quarter of the time on small data.
    check_input = bool(np.isnan(X).any())
    draws = rows if forest.max_samples is None else max(int(forest.max_samples * rows), 1)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for _ in range(forest.n_estimators):
            seed = seeds.randint(np.iinfo(np.int32).max)
            weight = None
            if forest.bootstrap:
                drawn = np.random.RandomState(seed).randint(0, rows, draws)
                weight = np.bincount(drawn, minlength=rows)
            tree = type(forest.estimator)(**params | {"random_state": seed})
            yield tree.fit(X, y, sample_weight=weight, check_input=check_input)


def cv_results(trials):
    """The trials as GridSearchCV's `cv_results_`, as far as it speaks of scores and params."""
    scores = np.array([trial.fold_scores for trial in trials])
    means = np.array([trial.r2 for trial in trials])
    return {
        "params": [trial.params for trial in trials],
        **{f"split{number}_test_score": scores[:, number] for number in range(scores.shape[1])},
        "mean_test_score": means,
        "std_test_score": np.array([trial.r2_std for trial in trials]),
        "rank_test_score": rankdata(-means, method="min").astype(np.int32),
    }


def ranks(trials):
    """Rank 1 is the highest mean r2; ties share the better rank."""
    return [int(rank) for rank in cv_results(trials)["rank_test_score"]]


def best_trial(trials):
    """The first trial of rank 1, which is GridSearchCV's choice."""
    return trials[int(np.argmin(ranks(trials)))]


def search_key(pipeline, X, y, *, folds, searched, offset=None):
    """A digest of all that a trial's scores depend on except the trial's own params, whose names
    are `searched`.

    Their values are not part of it: a larger grid takes over what a smaller one has finished.
    """
    left_out = {"steps", FOREST, *(f"{FOREST}__{name}" for name in (*searched, "n_jobs"))}
    settings = {k: v for k, v in pipeline.get_params().items() if k not in left_out}
    kind = type(pipeline[-1]).__name__
    if kind != "RandomForestRegressor":  # the only one at first: its interrupted searches go on
        settings[FOREST] = kind
    digest = hashlib.sha256(f"{sklearn.__version__} {np.__version__} {settings}".encode())
    offsets = () if offset is None else (offset,)
    for array in (X, y, *offsets, *(positions for fold in folds for positions in fold)):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _key(params):
    return tuple(sorted(params.items()))


def _largest(points):
    return max(points, key=lambda point: point[SIZE])
