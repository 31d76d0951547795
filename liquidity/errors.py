"""Every error that a user can do something about; anything else is a bug and keeps its traceback.

    LiquidityError
    |- InputError       exit 2: what was asked for cannot be done with what was given
    |  |- MarketDataError, SettingsError, TrackingError, ModelError, ClusterError
    |- JobError         exit 1: the job failed in the middle; the same command tries again
       |- ParityError, WorkerLost
       |- FetchError
          |- RefusedError

A message is one or more whole sentences: what is wrong, what was expected, what was found, and
what to do.
"""

OK, FAILED, BAD_INPUT, STALE, STOPPED = 0, 1, 2, 3, 130  # STALE: of the monitor alone


def first_line(error):
    """What an exception says first, to be part of a sentence.

    SQLAlchemy wraps a database's own sentence in the statement and links.
    """
    error = next((e.orig for e in (error, error.__cause__) if hasattr(e, "orig")), error)
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


class LiquidityError(Exception):
    """What a user can do something about; `exit_code` is that of the command."""

    exit_code = FAILED


class InputError(LiquidityError):
    """What was asked for cannot be done with what was given; nothing was begun."""

    exit_code = BAD_INPUT


class JobError(LiquidityError):
    """The job failed in the middle of its work."""


class MarketDataError(InputError, ValueError):
    """The market data cannot be used; the message names file, column, row and value."""


class SettingsError(InputError, ValueError):
    """The command or the environment cannot be used; the message says what to change."""


class TrackingError(InputError):
    """The tracking store cannot be used; the message names its URI."""


class ModelError(InputError):
    """The model cannot be used; the message names it and the cure."""


class ClusterError(InputError):
    """The cluster cannot be used; the message names it and the cure."""


class WorkerLost(JobError):
    """Workers died, or the cluster went away, in the middle of a job."""


class FetchError(JobError):
    """The market was not fetched; the message says why and what to do."""


class RefusedError(FetchError):
    """The server refuses whatever is asked, not only this: it is of no use to ask on."""


class ParityError(JobError):
    """The compiled forest does not score as the pipeline does."""
