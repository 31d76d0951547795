"""Liquidity of the same row: what the design document asks for, and what its worth is."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.inspection import permutation_importance

from liquidity import evaluation
from liquidity.contract import COVERAGE, EPSILON, FEATURES, RATIO, percent
from liquidity.data.table import build_table, describe_target, inputs_and_target
from liquidity.model.compile import Compiled
from liquidity.report.training_plots import model_figures
from liquidity.search.grid import held_out_r2
from liquidity.tasks.task import Task, Worth, beside


@dataclass(frozen=True)
class SameDay(Task):
    """A forest that approximates a division; see Task."""

    features: ClassVar = FEATURES

    def describe_target(self):
        """What was learned, as metadata of the model."""
        return describe_target(self.training)

    def calibrate(self, unseen):
        """The interval as metadata of the model; see Task."""
        y = np.concatenate([self.y[test] for _, test in self.folds])
        quantile = evaluation.interval_quantile(y, np.concatenate(unseen))
        return {"coverage": COVERAGE, "quantile": quantile, "epsilon": EPSILON}

    def start_baseline(self, pipeline, executor):
        """A future of the untuned forest's r2 on the test rows."""
        X_test, y_test = inputs_and_target(self.test)
        return executor.submit(held_out_r2, self.X, self.y, X_test, y_test, pipeline=pipeline)

    def evaluate(self, fitted, interval, untuned):
        """Metrics on the test rows, baselines among them, and figures by file name."""
        (X, y), quantile = inputs_and_target(self.test), interval["quantile"]
        y_pred = fitted.predict(X)
        # In this order MLflow's page lists them.
        metrics = evaluation.final_metrics(y, y_pred, quantile=quantile)
        metrics["baseline_test_r2"] = untuned.result()
        metrics |= evaluation.baseline_metrics(self.training, self.test)
        # It asks the forest 21 times for all rows.
        quick, options = Compiled(fitted), {"scoring": "r2", "n_repeats": 5, "random_state": 0}
        importance = permutation_importance(quick, X, y, **options).importances
        figures = model_figures(y, y_pred, quantile=quantile, importance=importance)
        return metrics, figures

    def worth(self, metrics):
        """The Worth of the forest with these metrics."""
        r2, formula = metrics["test_r2"], metrics["formula_test_r2"]
        sense = "divide where you know both" if formula >= r2 else "the target is no such ratio"
        holds = f"the {percent(COVERAGE)} interval holds {metrics['interval_coverage']:.0%}"
        return Worth(
            f"The forest explains {max(r2, 0):.0%} of how the test rows differ (r2 {r2:.4f}). That "
            f"is {beside(r2 - metrics['mean_test_r2'])} the mean of the training rows, "
            f"{beside(r2 - metrics['baseline_test_r2'])} an untuned forest and "
            f"{beside(r2 - formula)} {RATIO}: {sense}.",
            f"test r2 {r2:.4f}, log r2 {metrics['test_log_r2']:.4f}, {holds}",
            {
                "tuned forest": r2,
                "untuned forest": metrics["baseline_test_r2"],
                RATIO: formula,
                "mean of the training rows": metrics["mean_test_r2"],
            },
            f"{holds} of the test rows; High: precision {metrics['high_precision']:.2f}, recall "
            f"{metrics['high_recall']:.2f}",
        )


def prepare(frame, *, split, test_size, cv, max_samples, random_state):
    """The task of a checked market frame; raises MarketDataError where there is too little."""
    table = build_table(frame)
    train_rows, test_rows = evaluation.split_rows(
        table, split=split, test_size=test_size, random_state=random_state
    )
    table = table.assign(set=np.where(table.index.isin(test_rows), "test", "train"))
    # In split order: a forest's draws depend on the order of its rows.
    training, test = table.iloc[train_rows], table.iloc[test_rows]
    folds = evaluation.make_folds(training, split=split, cv=cv, max_samples=max_samples)
    X, y = inputs_and_target(training)
    return SameDay(0, table, training, test, X, y, np.arange(len(X)), folds)
