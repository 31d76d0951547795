"""Whether the MLflow store can be used, said within seconds."""

import fcntl
import logging
import os
import re
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import mlflow
import mlflow.store.db_migrations
import sqlalchemy

from liquidity.errors import TrackingError, first_line

# What MLflow makes of the status codes 401 and 403.
REFUSED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED")


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
            for uri in uris:
                stack.enter_context(_checked_sqlite(uri))
            stack.enter_context(brief_requests())
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
    except Exception as error:  # from SQLAlchemy, sqlite3, the file system or HTTP
        where = f"The MLflow store at {' and '.join(uris)}"
        if schemas := re.search(r"found version (\w+), but expected (\w+)", str(error)):
            raise TrackingError(f"{where} {_other_schema(*schemas.groups())}") from error
        if getattr(error, "error_code", None) in REFUSED:
            raise TrackingError(
                f"{where} does not let you in: {first_line(error)}. If it asks for passwords, set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            ) from error
        raise TrackingError(
            f"{where} cannot be used: {first_line(error)}. Start the server, make the file "
            "writable, or set MLFLOW_TRACKING_URI to a store that works."
        ) from error


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


@contextmanager
def _checked_sqlite(uri):
    """Write to an SQLite store and take it back; SQLite locks a read-only one without a word.

    Until the with block ends the store's folder is locked: of two jobs that make the same new
    store at once, MLflow's migrations fail one.
    """
    if not uri.startswith("sqlite:"):
        yield
        return
    engine = sqlalchemy.create_engine(uri, connect_args={"timeout": 5})
    path = Path((engine.url.database or "").removeprefix("file:"))
    if not path.parent.exists():  # MLflow makes a folder that is missing, or fails at once
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with closing(engine.raw_connection()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE can_it_be_written (x)")
            connection.rollback()
        engine.dispose()
        yield
    finally:
        os.close(folder)


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
