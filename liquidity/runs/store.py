"""Whether the MLflow store can be used, said within seconds."""

import logging
import os
import re
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import mlflow
import mlflow.store.db_migrations
import sqlalchemy

from liquidity.errors import TrackingError, first_line
from liquidity.locks import locked_folder
from liquidity.printable import without_passwords

# What MLflow makes of the status codes 401 and 403.
REFUSED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")
LOCKED_SECONDS = 5  # until a writer is waited for no longer
logger = logging.getLogger(__name__)


def quieten_mlflow():
    """Keep MLflow's migrations, tracebacks and a link per trial out of the progress bar's way."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A database error is logged with three tracebacks, and raised as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def check_store():
    """Fail now, within seconds, if the tracking store or the registry cannot be used.

    Left alone, MLflow tries an unreachable server for four minutes and an SQLite file that
    cannot be opened for two.
    """
    uris = dict.fromkeys([mlflow.get_tracking_uri(), mlflow.get_registry_uri()])
    try:
        with ExitStack() as stack:
            # Of two jobs that make the same new store at once, MLflow's migrations fail one.
            for folder in sorted({file.parent for uri in uris if (file := _sqlite_file(uri))}):
                stack.enter_context(locked_folder(folder))
            for uri in uris:
                if _sqlite_file(uri):
                    _make_sqlite(uri)
                    _check_sqlite(uri)
            stack.enter_context(brief_requests())
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
    except Exception as error:  # from SQLAlchemy, sqlite3, the file system or HTTP
        where = f"The MLflow store at {' and '.join(uris)}"
        raise TrackingError(without_passwords(f"{where} {_what_is_wrong(error)}")) from error


def _what_is_wrong(error):
    """The end of a sentence on a store that cannot be used, and what to do."""
    if schemas := re.search(r"found version (\w+), but expected (\w+)", str(error)):
        return _other_schema(*schemas.groups())
    if getattr(error, "error_code", None) in REFUSED:
        return (
            f"does not let you in: {first_line(error)}. If it asks for passwords, set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if is_locked(error):
        return (
            "is locked by another program that writes to it: wait until that is done, or set "
            "MLFLOW_TRACKING_URI to another store."
        )
    return (
        f"cannot be used: {first_line(error)}. Start the server, make the file writable, or set "
        "MLFLOW_TRACKING_URI to a store that works."
    )


def is_locked(error):
    """Whether another program holds the SQLite file that this error speaks of."""
    return first_line(error) == "database is locked"


def _other_schema(found, expected):
    """The end of a sentence on a store that another version of MLflow has made."""
    # Not at the top: every server would import it for a sentence that few will ever read.
    from alembic.script import ScriptDirectory

    migrations = ScriptDirectory(str(Path(mlflow.store.db_migrations.__file__).parent))
    known = found in {revision.revision for revision in migrations.walk_revisions()}
    schema = f"(its schema is {found}, that of MLflow {mlflow.__version__} is {expected})"
    if known:
        return (
            f"was made by an MLflow older than {mlflow.__version__} {schema}: back it up, then run "
            "`mlflow db upgrade` with its address."
        )
    return (
        f"was made or upgraded by an MLflow newer than {mlflow.__version__} {schema}, and there is "
        f"no way back: this project needs mlflow=={mlflow.__version__}. Set MLFLOW_TRACKING_URI to "
        "another file, such as sqlite:////tmp/mlflow.db, or restore the copy from before."
    )


@contextmanager
def brief_requests():
    """Wait for an MLflow server for seconds; by itself MLflow tries for four minutes."""
    with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10"):
        yield


def _sqlite_file(uri):
    """The file of an SQLite store whose folder exists, else None: MLflow makes the folder."""
    if not uri.startswith("sqlite:"):
        return None
    path = Path((sqlalchemy.make_url(uri).database or "").removeprefix("file:"))
    return path if path.parent.exists() else None


def _check_sqlite(uri):
    """Write to an SQLite store and take it back; SQLite locks a read-only one without a word."""
    engine = sqlalchemy.create_engine(uri, connect_args={"timeout": LOCKED_SECONDS})
    with closing(engine.raw_connection()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE can_it_be_written (x)")
        connection.rollback()
    engine.dispose()


def _make_sqlite(uri):
    """Make a new SQLite store beside its place, and give it its name when it is complete: MLflow
    cannot go on from tables that a killed process has left half made.
    """
    address = sqlalchemy.make_url(uri)
    path = _sqlite_file(uri)
    if address.query or path.exists():
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    unfinished = f"sqlite:///{new}"
    mlflow.MlflowClient(unfinished, unfinished).search_experiments(max_results=1)
    new.replace(path)


@contextmanager
def _environment(**settings):
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
