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
        os.close(lock)


def _make():
    """A folder of its own, and the descriptor that keeps it locked. Those that nobody keeps locked
    are of processes that were killed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # others' folders, or removed by now
            lock = _lock(left)
            if lock is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):  # taken for a leftover before it was locked
            lock = _lock(folder)
            if lock is not None and folder.exists():
                return folder, lock


def _lock(folder):
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
