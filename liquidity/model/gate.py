"""The gate: is the candidate fit to take the champion's place?

A candidate that brought only its own exam could be champion by easy rows, or by targets a hundred
times as large. So there are two sets of rows, each judged by itself: the champion's test rows with
the champion's targets, and the candidate's test rows.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from sklearn.metrics import r2_score
from sklearn.neighbors import KDTree

from liquidity.contract import (
    CHALLENGER,
    CHAMPION,
    COIN,
    DATE,
    EPSILON,
    KEYS,
    MARKET_CAP,
    PRICE,
    TARGET,
    VOLUME,
)
from liquidity.evaluation import log_r2
from liquidity.model.loading import champion_version, load_model
from liquidity.runs.tables import read_table
from liquidity.scratch import scratch_folder

PROMOTE = ("auto", "always", "never")
LEAST_ROWS = 100  # of each set
LEAST_FIRST_ROWS = 30  # to test the first champion on
UNLIKE = 0.01  # how far off the median ratio of two targets of the same row may be
FAR, MOST_FAR = 2, 0.1  # the share of these ratios that may be beyond a factor
SAME = 1e-3  # how far apart, as a share, volume, cap and price of the same row may be
# Kolmogorov's statistic of that many independent values is below this / sqrt(n) in 99.9 %.
KOLMOGOROV = 1.95
RULE = (
    "auto: below the champion neither on its own test rows nor on the candidate's, of each at "
    f"least {LEAST_ROWS} that neither was trained on; the first champion and every forecast has to "
    "beat its baselines"
)
CURE = "use promote=always to replace it all the same"


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, why, and the figures that decided."""

    promoted: bool
    reason: str
    figures: dict[str, float]
    champion: str | None = None  # the version that was champion then

    @property
    def role(self):
        """The alias that the version gets."""
        return CHAMPION if self.promoted else CHALLENGER


def decide(model_uri, table, metrics, *, horizon, name, promote, split):
    """Compare the candidate with its baselines and with the champion.

    `table` is the cleaned table with its column `set`, `metrics` those of the test rows, `split`
    what separates them from the rows that trained.
    """
    if promote == "never":
        return Decision(False, "promote=never", {})
    while True:
        champion = champion_version(name)
        if promote == "always":
            decision = _always(champion)
        else:
            decision = _below_baselines(table, metrics, horizon, first=champion is None)
            decision = decision or _decide(model_uri, champion, table, horizon, split)
        # A comparison takes a second, in which another training may have moved the alias.
        if champion_number(name) == _number(champion):
            return replace(decision, champion=_number(champion))


def champion_number(name):
    """The number of the version that is champion now, or None."""
    return _number(champion_version(name))


def _always(champion):
    instead = f"in place of version {champion.version}" if champion else "there was no champion"
    return Decision(True, f"promote=always, {instead}", {})


def _below_baselines(table, metrics, horizon, *, first):
    """The decision against a candidate that is worth less than what needs no model, or None."""
    tested = int((table["set"] == "test").sum())
    if first and tested < LEAST_FIRST_ROWS:
        return Decision(
            False,
            f"it was tested on {tested} rows only, and a first champion needs "
            f"{LEAST_FIRST_ROWS}; {CURE}",
            {"rows": tested},
        )
    baselines = ["har_test_r2"] if horizon else []
    if first:
        baselines = ["har_test_r2", "persistence_test_r2"] if horizon else ["mean_test_r2"]
    if first and not horizon and metrics["mean_test_r2"] < metrics["test_r2"] <= 0:
        # One absurd row among those that train, and their mean is no bar at all.
        return Decision(
            False,
            f"test r2 {metrics['test_r2']:.4f} is not above 0, that of the test rows' own mean; "
            f"{CURE}",
            {"test_r2": metrics["test_r2"]},
        )
    for baseline in baselines:
        if not metrics["test_r2"] > metrics[baseline]:
            return Decision(
                False,
                f"test r2 {metrics['test_r2']:.4f} is not above {metrics[baseline]:.4f}, the "
                f"{baseline.removesuffix('_test_r2')} of the same rows; {CURE}",
                {"test_r2": metrics["test_r2"], baseline: metrics[baseline]},
            )
    return None


def _decide(model_uri, champion, table, horizon, split):
    if champion is None:
        return Decision(True, "there was no champion", {})
    against = f"champion version {champion.version}"
    try:
        return _compare(model_uri, champion, table, horizon, split, against)
    except Exception as error:  # whatever was registered there, by whomever
        reason = str(error).partition("\n")[0].rstrip(".")
        return Decision(False, f"{against} cannot be compared ({reason}); {CURE}", {})


def _compare(model_uri, champion, table, horizon, split, against):
    with scratch_folder() as folder:
        theirs = read_table(champion.run_id, Path(folder), horizon=horizon)
    ratios = _target_ratios(table, theirs)
    off, far = _unlike(ratios)
    if abs(off - 1) > UNLIKE or far > MOST_FAR:
        return Decision(
            False,
            f"its targets are {off:.4g} times those of {against} for the same coins and dates (the "
            f"median), and {far:.0%} are off by more than a factor of {FAR}; {CURE}",
            {"target_ratio": off, "targets_far_off": far},
        )
    sets = {"champion's": theirs, "candidate's": table}
    splits = {"date"} if horizon else {split, _split_of(champion)}
    new = _new_to_both(sets, splits, horizon)
    shared = len(ratios) / theirs[TARGET].notna().sum()
    if horizon and not new["champion's"].any() and shared >= 0.5:
        # Later training has used up the champion's test rows; its targets agree.
        del sets["champion's"]
    short = [owner for owner in sets if new[owner].sum() < LEAST_ROWS]
    if short:
        return Decision(
            False,
            f"only {new[short[0]].sum()} rows are new to both it and {against} among the "
            f"{short[0]} test rows, and fewer than {LEAST_ROWS} decide nothing; {CURE}",
            {"rows": int(new[short[0]].sum())},
        )
    # Of a forecast the later ones are left, whatever the candidate learned: those differ by nature.
    if not horizon and (apart := _apart(theirs, new["champion's"])):
        left = int(new["champion's"].sum())
        return Decision(
            False,
            f"the {left} of the champion's test rows that are new to it are unlike the others "
            f"(Kolmogorov's statistic of their liquidity is {apart:.2f}), and decide nothing; "
            f"{CURE}",
            {"champions_rows": left, "champions_rows_apart": apart},
        )
    models = {
        "candidate": load_model(model_uri),
        "champion": load_model(f"models:/{champion.name}/{champion.version}"),
    }
    figures, worse, told = {}, [], []
    for owner, rows in sets.items():
        prefix = "" if owner == "candidate's" else "champions_"
        figures[f"{prefix}rows"] = int(new[owner].sum())
        scores = {role: _scores(model, rows, new[owner], horizon) for role, model in models.items()}
        for metric in scores["candidate"]:
            candidate, other = scores["candidate"][metric], scores["champion"][metric]
            figures[f"{prefix}candidate_{metric}"] = candidate
            figures[f"{prefix}champion_{metric}"] = other
            told.append(f"{metric} {candidate:.4f} against {other:.4f}")
            if not candidate >= other:
                worse.append(f"{metric} on the {owner} test rows")
        told[-1] += f" on {figures[f'{prefix}rows']} of the {owner} test rows"
    verdict = f"below {against} in {' and '.join(worse)}" if worse else f"not below {against}"
    return Decision(not worse, f"{verdict}: {', '.join(told)}", figures)


def _target_ratios(table, theirs):
    """The ratios of the targets of rows that both tables have, of shape (rows of both,).

    Liquidity next to nothing has ratios that say nothing, so EPSILON is added.
    """
    both = table[[*KEYS, TARGET]].merge(theirs[[*KEYS, TARGET]], on=KEYS).dropna()
    ratios = (both[f"{TARGET}_x"] + EPSILON) / (both[f"{TARGET}_y"] + EPSILON)
    return ratios.to_numpy(float)


def _unlike(ratios):
    """The median of the ratios, and the share of those that are beyond the factor FAR."""
    if not len(ratios):
        return 1.0, 0.0
    return float(np.median(ratios)), float((np.abs(np.log(ratios)) > np.log(FAR)).mean())


def _split_of(version):
    """What separates the test rows of a version's run; None where the run does not say."""
    data = mlflow.MlflowClient().get_run(version.run_id).data
    return data.tags.get("resolved.split") or data.params.get("split")


def _new_to_both(sets, splits, horizon):
    """Which test rows of each table neither model was trained on, booleans of shape (rows,).

    By the stricter one of the two splits: a candidate could choose one that lets it train on the
    champion's test coins, a day earlier or later.
    """
    new = {owner: (rows["set"] == "test").to_numpy(copy=True) for owner, rows in sets.items()}
    for trained in sets.values():
        seen = trained[trained["set"] == "train"]
        left = [rows[new[owner]] for owner, rows in sets.items()]
        known = _known(pd.concat(left), seen, splits, horizon)  # of both at once: it sorts `seen`
        for owner, part in zip(sets, np.split(known, [len(left[0])]), strict=True):
            new[owner][new[owner]] = ~part
    return new


def _known(rows, seen, splits, horizon):
    """Which rows a model that was trained on the rows `seen` knows, booleans of shape (rows,)."""
    known = pd.MultiIndex.from_frame(rows[KEYS]).isin(pd.MultiIndex.from_frame(seen[KEYS]))
    if "coin" in splits:
        known |= rows[COIN].isin(seen[COIN]).to_numpy()
    if "date" in splits:  # days around a row tell what came after it
        last = rows[COIN].map(seen.groupby(COIN)[DATE].max())
        known |= (rows[DATE] <= last + pd.Timedelta(days=horizon)).to_numpy()
    if len(seen) and not known.all():  # the same row under another name, rounded otherwise
        distance, _ = KDTree(_sizes(seen), metric="chebyshev").query(_sizes(rows[~known]))
        known[~known] = distance[:, 0] <= SAME
    return known


def _sizes(rows):
    """Logarithms of volume, cap and price, of shape (rows, 3)."""
    return np.nan_to_num(np.log(np.maximum(rows[[VOLUME, MARKET_CAP, PRICE]], 1e-12)), nan=-99)


def _apart(rows, new):
    """How far the targets of the test rows that are left are from those of all, by Kolmogorov's
    statistic; 0 where that can be chance, days of a coin counting once.

    A candidate that was trained on the hard ones would be examined by the easy ones.
    """
    y = np.sort(rows.loc[rows["set"] == "test", TARGET].to_numpy(float))
    left = np.sort(rows.loc[new, TARGET].to_numpy(float))
    shares = [np.searchsorted(each, y, side="right") / len(each) for each in (y, left)]
    apart = float(np.abs(shares[0] - shares[1]).max())
    return apart if apart > KOLMOGOROV / np.sqrt(rows.loc[new, COIN].nunique()) else 0.0


def _scores(model, rows, chosen, horizon):
    """The metrics by which models are compared, on the chosen rows."""
    if horizon:  # a row is answered from the days before it too
        columns = rows[[*model.features, COIN, DATE]]
        frame = columns.assign(**{DATE: columns[DATE].dt.strftime("%Y-%m-%d")})
    else:
        frame, rows = rows.loc[chosen, model.features], rows[chosen]
        chosen = np.full(len(rows), True)
    y, y_pred = rows[TARGET].to_numpy(float), model.predict(None, frame)[TARGET].to_numpy(float)
    y, y_pred = y[chosen], y_pred[chosen]
    log = {"log_r2": log_r2(y, y_pred)}
    return log if horizon else {"r2": r2_score(y, y_pred), **log}


def _number(version):
    return version and version.version
