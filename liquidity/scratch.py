"""Temporary folders, of which a kill leaves nothing for long."""

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "liquidity-scratch-"


@contextmanager
def scratch_folder():
    """Yields a new temporary folder, which is removed when the block ends."""
    folder, lock = _make()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make():
    """A folder of its own, and the descriptor that keeps it locked, None where there are no locks.
    Those that nobody keeps locked are of processes that were killed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # others' folders, or removed by now
            lock = _lock(left)
            if lock is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            lock = _lock(folder)
        except FileNotFoundError:  # taken for a leftover before it was locked
            continue
        except OSError:  # a file system without locks, where nothing is taken for one
            return folder, None
        if lock is not None and folder.exists():
            return folder, lock


def _lock(folder):
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            raise
        return None
    return lock
