"""How many unseen rows the 90 % interval holds, over several seeds of the split by coin.

    python benchmarks/coverage.py DATA [DATA ...] [--seeds N] [--rows N] [--until DATE]

Each DATA is what `train.py --data` takes. For each seed: split by coin, calibrate on the folds
of the training coins as train.py does, and count the test rows within the interval.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from liquidity.evaluation import interval_quantile, log_residuals, make_folds, split_rows
from liquidity.features import build_table, inputs_and_target
from liquidity.market import read_market
from liquidity.pipeline import build_pipeline, fit_pipeline, with_forest_params


def coverage(table, *, seed, trees):
    """Coverage on the test rows, their number, the quantile, and the typical upper / score."""
    train_rows, test_rows = split_rows(table, split="coin", test_size=0.2, random_state=seed)
    training = table.iloc[train_rows]
    folds = make_folds(training, split="coin", cv=5)
    pipeline = with_forest_params(build_pipeline(random_state=42), n_estimators=trees)
    X, y = inputs_and_target(training)
    quantile = interval_quantile(pipeline, X, y, folds=folds, n_jobs=-1)
    X_test, y_test = inputs_and_target(table.iloc[test_rows])
    y_pred = fit_pipeline(pipeline, X, y, n_jobs=-1).predict(X_test)
    return np.mean(log_residuals(y_test, y_pred) <= quantile), len(y_test), np.exp(quantile)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--rows", type=int, help="take a sample of so many rows")
    parser.add_argument("--until", help="leave out later dates")
    args = parser.parse_args()
    seeds = range(args.seeds)
    print(f"coverage by seed of the split ({args.trees} trees), their mean, test rows, factor")
    for data in args.data:
        table = build_table(read_market(data)[0])
        if args.until:
            table = table[table["date"] <= args.until]
        if args.rows and args.rows < len(table):
            table = table.sample(args.rows, random_state=0).sort_index()
        table = table.reset_index(drop=True)
        found = [coverage(table, seed=seed, trees=args.trees) for seed in seeds]
        shares, rows, factors = np.array(found).T
        print(
            f"{Path(data).name or data}: {' '.join(f'{share:.3f}' for share in shares)}  "
            f"mean {shares.mean():.3f}  {rows.mean():.0f} rows  x/: {factors.mean():.2f}"
        )


if __name__ == "__main__":
    main()
