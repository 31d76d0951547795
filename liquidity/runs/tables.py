"""The cleaned table that every run keeps: written with the run, read again by the gate."""

import mlflow
import pandas as pd

from liquidity.contract import CLEANED_DATA, COIN, DATE, FORECAST_DATA


def write_table(table, folder, *, horizon):
    """Write a run's cleaned table into a folder; returns its path, of the name CLEANED_DATA for
    horizon 0 (CSV), and FORECAST_DATA for others (Parquet).
    """
    path = folder / (FORECAST_DATA if horizon else CLEANED_DATA)
    if horizon:
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


def read_table(run_id, folder, *, horizon):
    """The cleaned table that a run has logged, downloaded into a folder."""
    name = FORECAST_DATA if horizon else CLEANED_DATA
    path = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path=name, dst_path=str(folder)
    )
    if horizon:
        return pd.read_parquet(path)
    # A coin may be called NA.
    return pd.read_csv(
        path,
        dtype={COIN: "str"},
        parse_dates=[DATE],
        keep_default_na=False,
    )
