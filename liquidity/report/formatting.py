"""Numbers as people write them."""

import numpy as np
import pandas as pd


def short_number(value):
    """Three or four digits of a number: 43.2M, 0.0338, 1,234; a dash for none; text as it is."""
    if isinstance(value, (str, bool, np.bool_)):
        return str(value)
    if pd.isna(value):
        return "-"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        # 999.6 million is 1B, not 1e+03M; and 999.6 below is 1,000, not 1e+03.
        if 0.9995 * size <= abs(value) < 999.5 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"


def short_numbers(table):
    """The table with every cell as text."""
    return table.map(short_number)
