"""The gate: is the candidate fit to take the champion's place?

A candidate that brought only its own exam could be champion by easy rows, or by targets a hundred
times as large. So there are two sets of rows, each judged by itself: the champion's test rows with
the champion's targets, and the candidate's test rows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

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

    @property
    def role(self):
        """The alias that the version gets."""
        return CHAMPION if self.promoted else CHALLENGER


def decide(model_uri, table, metrics, *, horizon, name, promote, split):
    """Compare the candidate with its baselines and with the champion.

    `table` is the cleaned table with its column `set`, `metrics` those of the test rows. With
    split=coin a row is new to a model only if its coin is.
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
        if _number(champion_version(name)) == _number(champion):
            return decision


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
    off = _targets_off(table, theirs)
    if off is not None and not abs(off - 1) <= UNLIKE:
        return Decision(
            False,
            f"its targets are {off:.4g} times those of {against} for the same coins and dates; "
            f"{CURE}",
            {"target_ratio": off},
        )
    by = [COIN] if split == "coin" and not horizon else KEYS
    sets = {"champion's": theirs, "candidate's": table}
    new = _new_to_both(sets, by)
    shared = theirs.set_index(KEYS).index.isin(table.set_index(KEYS).index).mean()
    if horizon and not new["champion's"].any() and shared >= 0.5 and off is not None:
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


def _targets_off(table, theirs):
    """The median ratio of the targets of rows that both tables have, or None where they share none.

    Liquidity next to nothing has ratios that say nothing, so EPSILON is added.
    """
    both = table[[*KEYS, TARGET]].merge(theirs[[*KEYS, TARGET]], on=KEYS).dropna()
    if both.empty:
        return None
    return float(((both[f"{TARGET}_x"] + EPSILON) / (both[f"{TARGET}_y"] + EPSILON)).median())


def _new_to_both(sets, by):
    """Which test rows of each table neither model was trained on, booleans of shape (rows,)."""
    new = {owner: (rows["set"] == "test").to_numpy(copy=True) for owner, rows in sets.items()}
    for names in (by, [VOLUME, MARKET_CAP, PRICE]):
        keys = {owner: pd.MultiIndex.from_frame(rows[names]) for owner, rows in sets.items()}
        for trained, rows in sets.items():
            seen = keys[trained][rows["set"] == "train"]
            for owner in sets:
                new[owner] &= ~keys[owner].isin(seen)
    return new


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
