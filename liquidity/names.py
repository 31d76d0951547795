"""Which columns the names of a request or a frame mean, where they are not the columns' own."""

from liquidity.contract import MOST_COLUMNS
from liquidity.data.headers import find_columns, header_of
from liquidity.errors import MarketDataError

LONGEST = 100  # letters of a name that may mean a column


def given_names(names, wanted):
    """`{column: the name that it goes by}` for those columns `wanted` that are among `names`.

    Only where one is missing are the names that files have for it looked for, so that rows with
    all of their own names cost nothing and may have any other columns. Raises MarketDataError
    where two names mean the same column. What says that it is in percent would be taken for a
    fraction: it is no column here.
    """
    given = {name: name for name in wanted if name in names}
    if len(given) == len(wanted) or len(names) > MOST_COLUMNS:
        return given
    texts = [name for name in names if _means(name, wanted)]
    try:
        found = find_columns(texts)
    except MarketDataError as error:  # a clause, for who names the file
        raise MarketDataError(f"{error}.") from None
    return given | {column: texts[place] for column, (place, _) in found.items()}


def given_once(names, wanted):
    """Likewise where `names` may repeat one, which none of those wanted may be."""
    given = given_names(names, wanted)
    for column, name in given.items():
        if names.count(name) > 1:
            raise MarketDataError(
                f"column {column}: given {names.count(name)} times, expected once."
            )
    return given


def _means(name, wanted):
    """Whether a name means one of the columns, as it stands."""
    if type(name) is not str or len(name) > LONGEST:
        return False
    header = header_of(name)
    return header is not None and header.column in wanted and not header.percent
