"""How much a request may hold, and how texts say it."""

from liquidity.contract import MOST_COLUMNS

MAX_BYTES = 16 * 2**20  # of a body
LARGE = 2**15  # up to it a body is answered within a few milliseconds
MAX_ROWS, MAX_COLUMNS = 100_000, MOST_COLUMNS
# Of a form: a file in it does not count, but millions of fields would take gigabytes.
FORM_FIELDS, FORM_BYTES = 1000, 500_000
# Of memory and of a processor's time to read a body: more than any within the limits above takes.
UNPACKED_BYTES, UNPACKING_SECONDS = 2**30, 10

BODY = f"{MAX_BYTES / 2**20:g} MiB"
ROWS = f"{MAX_ROWS:,} rows"
FIELDS = f"{FORM_FIELDS:,} fields"
FORM_TEXT = f"{FORM_BYTES / 1000:g} kB"
UNPACKED = f"{UNPACKED_BYTES / 2**30:g} GiB"
