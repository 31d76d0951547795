"""From the bytes of a request to columns of values, or InputError; of names that no columns can be
made of, MarketDataError.

Columns are lists by name, of equal length, holding whatever JSON, CSV or a form holds, or arrays
of numbers: whether those obey the rules, the model says.
"""

from csv import Error as CSVError
from csv import reader as header_reader
from io import BytesIO, StringIO

import numpy as np
import orjson
import pyarrow as arrow
from pyarrow import csv, parquet

from liquidity.contract import COIN, DATE, FORECAST_FEATURES, INPUTS
from liquidity.data import cells
from liquidity.data.content import is_packed
from liquidity.names import given_names, given_once
from serve.limits import LARGE, MAX_COLUMNS, MAX_ROWS

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
FORMS = URL_ENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
# Of a file that is scored as a whole; what it is, its content says.
TABLES = (
    CSV, MULTIPART, JSON, PARQUET, "text/tab-separated-values", "application/zip",
    "application/gzip", "application/octet-stream",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
)  # fmt: skip
PAYLOADS = ("dataframe_split", "dataframe_records", "instances", "inputs")
THRESHOLD_FIELD = "threshold"  # of a form, and of a JSON coin
FIELD_LETTERS = 400  # a number in full has fewer
PARQUET_ERRORS = (OSError, ValueError, OverflowError, arrow.ArrowException)
# A coin as documents and messages show one.
EXAMPLE = {name: column.example for name, column in INPUTS.items()}
RECORDS_HINT = "[{" + ", ".join(f'"{name}": {text}' for name, text in EXAMPLE.items()) + "}]"
DAY = ", ".join(f'"{name}": {EXAMPLE[name]}' for name in FORECAST_FEATURES)
DAYS_HINT = f'[{{"{DATE}": "2026-01-31", {DAY}}}]'


class InputError(ValueError):
    """A request that cannot be scored; `status` is its HTTP status."""

    def __init__(self, message, *, status=400):
        super().__init__(message)
        self.status = status


def parse_record(body, features):
    """One coin as a JSON object: `(columns, threshold or None)`."""
    record = _json_object(body)
    columns = {name: [record[name]] for name in features if name in record}
    if len(columns) < len(features):
        columns = {column: [record[name]] for column, name in given_names(record, features).items()}
    return columns, record.get(THRESHOLD_FIELD)


def parse_form(form, features):
    """One coin from the texts of a form: columns of numbers, the threshold or None, and by field
    what is wrong with one that holds no number.
    """
    numbers, wrong = {}, {}
    for name in (*features, THRESHOLD_FIELD):
        text = form.get(name, "").strip()
        try:
            if len(text) > FIELD_LETTERS:
                raise ValueError(f"expected a number, got {len(text):,} letters")
            value = cells.number(text)
        except ValueError as error:
            wrong[name] = str(error)
            continue
        if not np.isnan(value):
            numbers[name] = value
        elif text or name != THRESHOLD_FIELD:
            wrong[name] = "a number is missing"
    threshold = numbers.pop(THRESHOLD_FIELD, None)
    return {name: [value] for name, value in numbers.items()}, threshold, wrong


def parse_days(body, content_type, names):
    """One coin's days, `{"rows": [{...}, ...]}`: its columns `names`, and its name or None.

    The columns are None where there is a name and no rows.
    """
    check_content_type(content_type, (JSON,))
    payload = _json_object(body)
    coin, rows = payload.get("coin"), payload.get("rows")
    if not isinstance(coin, str | None):
        raise InputError(f"coin: expected a name as text, got {_kind(coin)}.")
    if rows is None and coin:
        return None, coin
    if type(rows) is not list or not rows:
        got = "an empty list" if rows == [] else _kind(rows)
        raise InputError(f"rows: expected {_expected('rows')}, one per day, got {got}.")
    columns = _record_columns("rows", rows, names)
    names = [name for name in columns.get(COIN, ()) if isinstance(name, str) and name.strip()]
    return columns, coin or (names[0].strip() if names else None)


def parse_invocation(body, content_type, features, optional=()):
    """The rows of any payload that MLflow's server takes: `(columns, threshold or None)`."""
    kind = check_content_type(content_type, (JSON, CSV, PARQUET))
    names = (*features, *optional)
    if kind == JSON:
        payload = _json_object(body)
        columns = _json_columns(payload, names)
        return packed(columns) if len(body) > LARGE else columns, _threshold(payload)
    table = read_csv(body) if kind == CSV else _read_parquet(body, features, optional)
    given = given_once(table.column_names, names)
    return packed({column: table.column(name).to_pylist() for column, name in given.items()}), None


def packed(columns):
    """The columns, those of whole or of decimal numbers alone as arrays: thousands of a list's
    objects take much longer from one process to another.
    """
    return {name: _packed(values) for name, values in columns.items()}


def _packed(values):
    types = set(map(type, values))
    if types == {float}:
        return np.array(values)
    if types == {int} and min(values) >= -(2**63) and max(values) < 2**63:
        return np.array(values, np.int64)
    return values


def check_content_type(content_type, accepted):
    """The media type of a Content-Type header; InputError 415 for others and other charsets."""
    if content_type in accepted:
        return content_type
    kind, _, rest = (content_type or "").partition(";")
    kind, rest = kind.strip().lower(), rest.strip().lower().replace('"', "")
    if kind in accepted and rest in ("", "charset=utf-8"):
        return kind
    got = f"got {content_type[:100]!r}" if content_type else "got no Content-Type"
    raise InputError(
        f"Content-Type: expected {' or '.join(accepted)}, in UTF-8; {got}.", status=415
    )


def is_heavy(body, content_type):
    """Whether to read the body may take long, or more memory than the body has bytes."""
    return len(body) > LARGE or PARQUET in (content_type or "").lower() or is_packed(body)


def uploaded_file(request):
    """The bytes of a file, sent as the form's `file` or as the body itself."""
    if request.mimetype != MULTIPART:
        check_content_type(request.content_type, TABLES)
        return request.get_data()
    if file := request.files.get("file"):
        return file.read()
    if text := request.form.get("file"):
        return text.encode()
    raise InputError("file: expected a CSV file, got none; choose one and send it again.")


def read_csv(body):
    """A CSV body as an Arrow table of texts; rows unlike the header are refused."""
    serial = csv.ReadOptions(use_threads=False)  # whose errors name the row
    try:
        text = body.decode("utf-8-sig")
        # Before Arrow sees it, for which each column is 20 kB of memory however few letters it has.
        header = next(filter(None, header_reader(StringIO(text, newline=""))), ())
        if len(header) > MAX_COLUMNS:
            raise InputError(f"{len(header):,} columns: expected at most {MAX_COLUMNS:,}.")
        text = text.encode()
        names = csv.open_csv(arrow.BufferReader(text), read_options=serial).schema.names
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, arrow.string()))
        table = csv.read_csv(arrow.BufferReader(text), read_options=serial, convert_options=as_text)
    except MemoryError:  # of Arrow too, whose is one of its own as well
        raise
    except (UnicodeDecodeError, CSVError, arrow.ArrowException) as error:
        raise InputError(
            f"The body cannot be read as CSV in UTF-8: {_first_line(error)}."
        ) from None
    return _limited(table)


def _read_parquet(body, features, optional):
    """The columns `features`, and `optional` ones, which are texts, of a Parquet body, once its
    footer has shown that they are small: a few bytes of it can stand for any number of rows, and of
    letters in each.
    """
    try:
        file = parquet.ParquetFile(BytesIO(body))
        # No more of its metadata: Arrow ends the process where that of a column is damaged.
        rows = sum(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        schema = file.schema_arrow
    except MemoryError:
        raise
    except PARQUET_ERRORS as error:
        raise _no_parquet(error) from None
    check_count(rows)
    given = given_once(schema.names, (*features, *optional))
    for column, name in given.items():
        type_ = schema.field(name).type
        if column in optional:
            if not (arrow.types.is_string(type_) or arrow.types.is_large_string(type_)):
                raise InputError(f"column {name}: expected texts, got {type_}.")
        elif not (arrow.types.is_integer(type_) or arrow.types.is_floating(type_)):
            raise InputError(f"column {name}: expected numbers, got {type_}.")
    try:
        return file.read([*given.values()], use_threads=False)
    except MemoryError:
        raise
    except PARQUET_ERRORS as error:
        raise _no_parquet(error) from None


def _no_parquet(error):
    return InputError(f"The body cannot be read as Parquet: {_first_line(error)}.")


def _limited(rows):
    check_count(len(rows))
    return rows


def check_count(rows):
    """The number of rows; raises InputError 413 for too many."""
    if rows > MAX_ROWS:
        raise InputError(
            f"{rows:,} rows: expected at most {MAX_ROWS:,}; send them in parts, or score "
            "files with `python -m liquidity.scoring`.",
            status=413,
        )
    return rows


def _json_object(body):
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Without the document that the error carries.
        raise InputError(f"The body is not valid JSON: {error.msg}.") from None
    if type(payload) is not dict:
        raise InputError(f"expected a JSON object, got {_kind(payload)}.")
    return payload


def _json_columns(payload, features):
    """The model's columns as lists, out of whichever of the four forms the payload has."""
    keys = [key for key in PAYLOADS if key in payload]
    if len(keys) != 1:
        raise InputError(
            f"expected exactly one of {', '.join(PAYLOADS)}, got "
            f"{', '.join(keys) or 'none of them'}."
        )
    key = keys[0]
    rows = payload[key]
    if key == "dataframe_split":
        return _split_columns(rows, features)
    if isinstance(rows, list):
        return _record_columns(key, rows, features)
    if isinstance(rows, dict) and key != "dataframe_records":
        return _named_columns(key, rows, features)
    raise InputError(f"{key}: expected {_expected(key)}, got {_kind(rows)}.")


def _expected(key):
    if key in ("dataframe_records", "instances"):
        return f"a list of objects such as {RECORDS_HINT}"
    if key == "rows":
        return f"a list of objects such as {DAYS_HINT}"
    return "an object of lists, one per column, or a list of objects"


def _record_columns(key, rows, features):
    check_count(len(rows))
    try:
        return {name: [row[name] for row in rows] for name in features}
    except (KeyError, TypeError):
        pass  # a name that not all rows have, or a row that is no object
    if set(map(type, rows)) - {dict}:
        number, row = next((n, row) for n, row in enumerate(rows) if type(row) is not dict)
        raise InputError(f"{key}, row {number}: expected {_expected(key)}, got {_kind(row)}.")
    given = given_names(dict.fromkeys(name for row in rows for name in row), features)
    return {column: [row.get(name) for row in rows] for column, name in given.items()}


def _split_columns(split, features):
    if type(split) is not dict or type(split.get("data")) is not list:
        raise InputError(
            'dataframe_split: expected {"columns": [...], "data": [[...], ...]}, got '
            f"{_kind(split)}{' without a list `data`' if type(split) is dict else ''}."
        )
    names, rows = split.get("columns"), _limited(split["data"])
    if type(names) is not list:
        raise InputError(f"dataframe_split, columns: expected a list of names, got {_kind(names)}.")
    for number, row in enumerate(rows):
        if type(row) is not list or len(row) != len(names):
            got = f"{len(row)} values" if type(row) is list else _kind(row)
            raise InputError(
                f"dataframe_split, row {number}: expected a list of {len(names)} values, one per "
                f"column, got {got}."
            )
    position = {column: names.index(name) for column, name in given_once(names, features).items()}
    return {column: [row[place] for row in rows] for column, place in position.items()}


def _named_columns(key, columns, features):
    given = given_names(columns, features)
    found = {column: columns[name] for column, name in given.items()}
    # One number in place of a list is one row.
    found = {name: v if type(v) is list else [v] for name, v in found.items()}
    if len({len(values) for values in found.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in found.items())
        raise InputError(f"{key}: expected columns of equal length, got {lengths}.")
    for values in found.values():
        _limited(values)
    return found


def _threshold(payload):
    params = payload.get("params")
    if params is None:
        return None
    if type(params) is not dict:
        raise InputError(f"params: expected an object, got {_kind(params)}.")
    return params.get(THRESHOLD_FIELD)


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _first_line(error):
    return str(error).strip().partition("\n")[0].rstrip(".")
