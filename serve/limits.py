"""How much a request may hold, and how texts say it."""

MAX_BYTES = 16 * 2**20  # of a body
MAX_ROWS, MAX_COLUMNS = 100_000, 1000
# Of a form: a file in it does not count, but millions of fields would take gigabytes.
FORM_FIELDS, FORM_BYTES = 1000, 500_000

BODY = f"{MAX_BYTES / 2**20:g} MiB"
ROWS = f"{MAX_ROWS:,} rows"
FIELDS = f"{FORM_FIELDS:,} fields"
FORM_TEXT = f"{FORM_BYTES / 1000:g} kB"
