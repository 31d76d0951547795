"""The grid search: GridSearchCV's candidates, folds, scores and ranking, in less time.

A forest with `random_state` r and 100 trees is the first 100 trees of the forest with the same r
and 300 trees. So only the largest forest of each (max_depth, min_samples_split) is fitted, and
every smaller one is scored from cumulated tree predictions, with the bits that GridSearchCV gets.
No forest is ever held in memory: a tree is grown, asked and dropped. What the best forest so far
answered for the rows that it had not seen is kept, for the interval is calibrated on it.
"""

import hashlib
import time
from collections import defaultdict
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace

import numpy as np
import sklearn
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import ParameterGrid

from liquidity.search.pipeline import FOREST, with_forest_params

SIZE = "n_estimators"
FOLD_METRIC = "r2_fold_"


@dataclass(frozen=True)
class Trial:
    """One grid point: its params, r2 per fold, and the seconds that its trees took to fit.

    `predictions`, which the best of a search has unless it was taken over from another one, are as
    `out_of_fold` returns them.
    """

    params: dict
    fold_scores: tuple[float, ...]
    fit_seconds: float
    predictions: tuple[np.ndarray, ...] | None = field(default=None, compare=False, repr=False)

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


def search(
    pipeline, X, y, *, param_grid, folds, executor, on_trial, finished=(), offset=None, unscored=()
):
    """Score every grid point by cross-validated r2 and return the trials in grid order.

    `executor` is any concurrent.futures executor; `on_trial(trial)` is called here, in the
    calling thread, as soon as all folds of a grid point are scored. Trials in `finished` are
    taken over as they are. r2 is that of y + `offset`, of shape (rows,), where there is one: what
    a forecast's forest leaves out of its target. `unscored` are positions per fold of rows that the
    best trial's `predictions` are to hold too.
    """
    trials = {trial.key: trial for trial in finished}
    best, predicted = max((trial.r2 for trial in trials.values()), default=-np.inf), {}
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
            also,
            pipeline=with_forest_params(pipeline, **_largest(points)),
            sizes=sorted(point[SIZE] for point in points),
        ): (group, number)
        for group, points in missing.items()
        for number, (train, test, also) in enumerate(_asked(folds, unscored))
    }
    for future in as_completed(futures):
        # Out of the dict, for what it returned to leave memory.
        group, number = futures.pop(future)
        scored[group][number] = future.result()
        if len(scored[group]) < len(folds):
            continue
        by_fold = [found for _, found in sorted(scored.pop(group).items())]
        for params in sorted(missing[group], key=lambda point: point[SIZE]):
            trial = Trial(
                params,
                tuple(scores[params[SIZE]] for scores, _, _ in by_fold),
                # The trees of a forest cost alike, so a smaller forest costs its share.
                sum(seconds for _, _, seconds in by_fold)
                * params[SIZE]
                / _largest(missing[group])[SIZE],
            )
            trials[trial.key] = trial
            if trial.r2 > best:
                best, predicted = trial.r2, {}
            if trial.r2 == best:  # whichever of equals is the choice in the end
                answers = tuple(predictions[params[SIZE]] for _, predictions, _ in by_fold)
                predicted[trial.key] = answers
            on_trial(trial)
    found = (trials[_key(params)] for params in candidates(param_grid))
    return [replace(trial, predictions=predicted.get(trial.key)) for trial in found]


def out_of_fold(pipeline, X, y, *, folds, executor, unscored=()):
    """What `pipeline`, fitted on each fold's training rows, answers for the other rows of it.

    Returns an array per fold, for its scoring rows and then those of `unscored`, with the bits of
    RandomForestRegressor.predict.
    """
    size = getattr(pipeline[-1], SIZE)
    futures = [
        executor.submit(fit_fold, X, y, train, test, None, also, pipeline=pipeline, sizes=[size])
        for train, test, also in _asked(folds, unscored)
    ]
    return tuple(future.result()[1][size] for future in futures)


def held_out_r2(X, y, X_test, y_test, *, pipeline):
    """r2 on the test rows of `pipeline` fitted on X and y, without its forest in memory."""
    size, rows = getattr(pipeline[-1], SIZE), np.arange(len(X) + len(X_test))
    X, y = np.concatenate([X, X_test]), np.concatenate([y, y_test])
    train, test = np.split(rows, [len(rows) - len(X_test)])
    return fit_fold(X, y, train, test, pipeline=pipeline, sizes=[size])[0][size]


def fit_fold(X, y, train, test, offset=None, unscored=(), *, pipeline, sizes):
    """Fit `pipeline` on `train`, score r2 on `test` for its first `sizes` trees (ascending).

    r2 is that of y + `offset` where there is one. Returns `({size: r2}, {size: predictions},
    seconds of fitting)`; predictions are those for `test` and then `unscored`. Sums and casts are
    those of RandomForestRegressor.predict, in its order, so that not even the last bit differs.
    """
    started = time.perf_counter()
    asked = np.concatenate([test, np.asarray(unscored, dtype=np.int64)])
    before = clone(pipeline[:-1])  # other folds may fit the same one in other threads
    scaled = np.float32(before.fit_transform(X[train], y[train]))
    scaled_asked = np.float32(before.transform(X[asked]))
    offset = 0.0 if offset is None else offset[test]
    total = np.zeros(len(asked))
    scores, predictions, scoring_seconds = {}, {}, 0.0
    for count, tree in enumerate(grow_trees(pipeline[-1], scaled, y[train]), 1):
        grown = time.perf_counter()
        total += tree.predict(scaled_asked, check_input=False)
        if count in sizes:
            predictions[count] = total / count
            own = predictions[count][: len(test)]
            scores[count] = float(r2_score(y[test] + offset, own + offset))
        scoring_seconds += time.perf_counter() - grown
    return scores, predictions, time.perf_counter() - started - scoring_seconds


def grow_trees(forest, X, y):
    """Yield the fitted trees of `forest.fit(X, y)` one after the other and keep none of them.

    X is float32 and may hold NaN, the forest's `max_samples` None or a share of the rows, and what
    it needs to split or in a leaf a number of them. The draws are those of scikit-learn's forests:
    a seed per tree, and from it the bootstrap sample, where there is one. One tree in memory
    instead of a forest is what lets hundreds of thousands of rows be searched.
    """
    seeds = np.random.RandomState(forest.random_state)
    random = np.random.RandomState()  # to make one takes a hundred times as long as to seed it
    params = {name: getattr(forest, name) for name in forest.estimator_params}
    rows = len(X)
    # Without its check a tree has no mask of missing values, and is silently another one. Where
    # nothing is missing, leaving it out saves a quarter of the time on small data.
    check_input = bool(np.isnan(X).any())
    draws = rows if forest.max_samples is None else max(int(forest.max_samples * rows), 1)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for _ in range(forest.n_estimators):
            seed = seeds.randint(np.iinfo(np.int32).max)
            own_X, own_y, weight = X, y, None
            if forest.bootstrap:
                random.seed(seed)
                weight = np.bincount(random.randint(0, rows, draws), minlength=rows)
                # A tree leaves out rows that weigh nothing, so it is the same without them. A tenth
                # of a large table side by side is grown in five sixths of the time.
                drawn = np.flatnonzero(weight)
                own_X, own_y, weight = X[drawn], y[drawn], weight[drawn]
            random.seed(seed)
            tree = type(forest.estimator)(**params | {"random_state": random})
            yield tree.fit(own_X, own_y, sample_weight=weight, check_input=check_input)


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


def _asked(folds, unscored):
    """Each fold's positions of rows that train, that score, and that are answered beside them."""
    for (train, test), also in zip(folds, unscored or [()] * len(folds), strict=True):
        yield train, test, also


def _key(params):
    return tuple(sorted(params.items()))


def _largest(points):
    return max(points, key=lambda point: point[SIZE])
