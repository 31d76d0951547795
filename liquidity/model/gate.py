"""The gate: is the candidate fit to take the champion's place?"""

import tempfile
from dataclasses import dataclass

import mlflow
import pandas as pd
from sklearn.metrics import r2_score

from liquidity.contract import CHALLENGER, CHAMPION, CLEANED_DATA, FEATURES, KEYS, TARGET
from liquidity.evaluation import log_r2
from liquidity.model.loading import champion_version, load_model

PROMOTE = ("auto", "always", "never")
LEAST_ROWS = 100


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, why, and the figures that decided."""

    promoted: bool
    reason: str
    figures: dict

    @property
    def role(self):
        """The alias that the version gets."""
        return CHAMPION if self.promoted else CHALLENGER


def decide(model_uri, table, *, name, promote, split):
    """Compare the candidate with the champion on rows of `table` that neither was trained on.

    `table` is the cleaned table with its column `set` (train or test). With split=coin a row is
    new to the champion only if its coin is.
    """
    if promote == "never":
        return Decision(False, "promote=never", {})
    while True:
        champion = champion_version(name)
        decision = _decide(model_uri, champion, table, promote=promote, split=split)
        # A comparison takes a second, in which another training may have moved the alias.
        if _number(champion_version(name)) == _number(champion):
            return decision


def _decide(model_uri, champion, table, *, promote, split):
    if champion is None:
        return Decision(True, "there was no champion", {})
    if promote == "always":
        return Decision(True, f"promote=always, in place of version {champion.version}", {})
    return _gate(model_uri, champion, table, by=["coin"] if split == "coin" else KEYS)


def _gate(model_uri, champion, table, *, by):
    against = f"champion version {champion.version}"
    cure = "use promote=always to replace it all the same"
    try:
        new = _rows_new_to(champion, table[table["set"] == "test"], by)
        if len(new) < LEAST_ROWS:
            return Decision(
                False,
                f"only {len(new)} rows are new to both it and {against}, and fewer than "
                f"{LEAST_ROWS} decide nothing; {cure}",
                {"rows": len(new)},
            )
        y_champion = _score(f"models:/{champion.name}/{champion.version}", new)
    except Exception as error:  # whatever was registered there, by whomever
        reason = str(error).partition("\n")[0]
        return Decision(False, f"{against} cannot be compared ({reason}); {cure}", {})
    figures = {"rows": len(new)}
    for role, y_pred in (("candidate", _score(model_uri, new)), ("champion", y_champion)):
        figures[f"{role}_r2"] = r2_score(new[TARGET], y_pred)
        figures[f"{role}_log_r2"] = log_r2(new[TARGET], y_pred)
    metrics = ("r2", "log_r2")
    worse = [m for m in metrics if figures[f"candidate_{m}"] < figures[f"champion_{m}"]]
    compared = " and ".join(
        f"{m} {figures[f'candidate_{m}']:.4f} against {figures[f'champion_{m}']:.4f}"
        for m in metrics
    )
    verdict = f"below {against} in {' and '.join(worse)}" if worse else f"not below {against}"
    return Decision(not worse, f"{verdict}: {compared}, on {len(new)} rows new to both", figures)


def _number(version):
    return version and version.version


def _score(model_uri, table):
    answer = load_model(model_uri).predict(None, table[FEATURES])
    return answer["liquidity"].to_numpy(float)


def _rows_new_to(champion, table, by):
    """The rows of `table` whose keys are not among those that the champion was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            run_id=champion.run_id, artifact_path=CLEANED_DATA, dst_path=folder
        )
        known = pd.read_csv(path, dtype=str, keep_default_na=False)
    seen = pd.MultiIndex.from_frame(known.loc[known["set"] == "train", by])
    return table[~pd.MultiIndex.from_frame(table[by].astype(str)).isin(seen)]
