"""A folder that one process at a time writes to."""

import fcntl
import logging
import os
import time
from contextlib import contextmanager

LOCK_SECONDS = 60  # for another job to make a new store, or to write its forecasts
NOTICE_SECONDS = 3  # of waiting in silence
logger = logging.getLogger(__name__)


@contextmanager
def locked_folder(folder):
    """Hold a lock on the folder; raises TimeoutError where another process keeps it for long."""
    number = os.open(folder, os.O_RDONLY)
    try:
        started, said = time.monotonic(), False
        while not _lock(number):
            waited = time.monotonic() - started
            if waited > LOCK_SECONDS:
                raise TimeoutError(
                    f"another process has kept the folder {folder} locked (flock) for "
                    f"{LOCK_SECONDS} s; end it or wait for it"
                )
            if waited > NOTICE_SECONDS and not said:
                said = True
                logger.warning("Waiting for another process that has locked the folder %s.", folder)
            time.sleep(0.1)
        yield
    finally:
        os.close(number)


def _lock(number):
    """Whether the open folder is locked now; some file systems know no locks and do without."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
