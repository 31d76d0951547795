"""One name for one asset through a whole source: by the ids of files that have them."""

import numpy as np
import pandas as pd

from liquidity.contract import COIN, DATE, ID, MARKET_CAP, PRICE

# Two rows of one coin and date are one coin's corrected figures up to this ratio of price or
# capitalisation, and most likely two coins beyond it.
REVISION = 2
ROW_NUMBERS = "the column id numbers the rows, so it does not tell coins apart"
RENAMED_SHARE = 0.1  # of ids that are whole numbers; rows that are numbered have others each day


def name_assets(frame):
    """The frame without ids, where one name is one asset on every date; what there is to say of
    that, and what is doubtful.

    Rows of different ids are different assets, under the last name that their id has. Of several
    assets of one name the largest, by its largest known capitalisation, keeps it, the others add
    their id.
    """
    if ID not in frame:
        return frame, [], []
    ids, names = frame[ID], frame[COIN]
    frame = frame.drop(columns=ID)
    known = ids.notna().to_numpy()
    if not known.any():
        return frame, [], []
    if are_row_numbers(ids[known], names[known], frame.loc[known, DATE]):
        return frame, [], [ROW_NUMBERS]
    assets = pd.DataFrame(
        {COIN: names[known], "cap": frame.loc[known, MARKET_CAP].fillna(-np.inf)}
    ).groupby(ids[known], sort=False)
    assets = pd.DataFrame({COIN: assets[COIN].last(), "cap": assets["cap"].max()})
    # The first of equally large ones, in the order of their names.
    assets = assets.sort_index().sort_values("cap", ascending=False, kind="stable")
    namesake = assets[COIN].duplicated()
    assets.loc[namesake, COIN] += " (" + assets.index[namesake].astype("str") + ")"
    frame[COIN] = names.where(~known, ids.map(assets[COIN]))
    said = []
    if namesake.any():
        example = assets.loc[namesake, COIN].iloc[0]
        count = int(namesake.sum())
        said.append(
            f"{count:,} coin{' shares' if count == 1 else 's share'} the name of a larger one and "
            f"{'is' if count == 1 else 'are'} told apart by id, such as {example!r}"
        )
    return frame, said, []


def probable_namesakes(frame):
    """A sentence where rows of a coin and date differ by more than a correction would, or None."""
    repeated = frame[frame.duplicated([COIN, DATE], keep=False)]
    if repeated.empty:
        return None
    groups = repeated.groupby([COIN, DATE], sort=False)[[PRICE, MARKET_CAP]]
    least, most = groups.min(), groups.max()
    apart = (most > REVISION * least).any(axis=1)
    if not apart.any():
        return None
    count = int(apart.sum())
    coin, date = apart.index[apart][0]
    low, high = least.loc[(coin, date), MARKET_CAP], most.loc[(coin, date), MARKET_CAP]
    return (
        f"{count:,} time{'s' if count > 1 else ''} rows of one coin and date differ so much that "
        f"they may be two coins of one name, such as {coin!r} on {date:%Y-%m-%d} with "
        f"capitalisations of {low:g} and {high:g}; only the last row of each was "
        "kept: add a column id, or name them apart"
    )


def are_row_numbers(ids, names, dates):
    """Whether ids number the rows instead of naming assets; Series of texts, and of days."""
    if dates.nunique() < 2 or not ids.dropna().str.fullmatch(r"\d+").all():
        return False
    if not ids.duplicated().any():
        return bool(names.duplicated().any())
    renamed = names.groupby(ids).nunique() > 1
    return bool(renamed.mean() > RENAMED_SHARE)
