"""A file that is there when it is complete, made of an input that stayed as it was."""

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from liquidity.errors import MarketDataError


def refuse_existing(target, overwrite):
    """Raise MarketDataError for an output that exists and is not to be replaced."""
    if target.exists() and not overwrite:
        raise MarketDataError(f"{target}: exists; use --overwrite to replace it.")


@contextmanager
def replaced(target, *, overwrite=False):
    """A binary file beside `target` to write to, which takes its name when the block ends well.

    Where `target` is a symbolic link, it is the file behind the link that is replaced; where it
    exists, mode and owner stay. A kill leaves the file beside it, `.NAME.partial`; the next one to
    write `target` uses it up. Raises MarketDataError where another process is writing `target`.
    """
    target = behind_links(target)
    before = target.stat() if target.exists() else None
    if before and not stat.S_ISREG(before.st_mode):
        raise MarketDataError(f"{target}: is no file that can be replaced; write to another name.")
    partial = target.with_name(f".{target.name}.partial")
    with _locked(partial, target) as file:
        try:
            if before:  # now already: what was private is so while it is written too
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            yield file
            file.flush()
            if before:  # as far as one may, and last: what a kill leaves is one's own
                with suppress(PermissionError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
            refuse_existing(target, overwrite)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def behind_links(path):
    """Where a path leads, whether or not there is something."""
    return Path(os.path.realpath(path))


def _locked(partial, target):
    """`partial`, empty, opened for writing, and not by another process."""
    while True:
        file = _open_own(partial)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise MarketDataError(f"{target}: another process is writing it.") from None
        # The other process may have finished, and what was opened here be its output.
        if partial.exists() and partial.stat().st_ino == os.fstat(file.fileno()).st_ino:
            file.truncate()
            return file
        file.close()


def _open_own(path):
    """The file `path`, made where there is none, opened for writing.

    Whoever can write in the folder could have put a link to somebody else's file there. Raises
    MarketDataError for anything but a file of this user with this one name.
    """
    with suppress(FileExistsError):
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "wb")
    try:
        # A pipe that nobody reads is not waited for.
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.EACCES):
            raise
    else:
        found = os.fstat(number)
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if own and found.st_nlink <= 1:  # 0: the other process is done with it, see _locked
            return os.fdopen(number, "wb")
        os.close(number)
    raise MarketDataError(
        f"{path}: expected no such file, or what a job of yours has left, got a link or another "
        "user's: remove it, or write into another folder."
    )


@contextmanager
def unchanged(path):
    """Raise MarketDataError where the input `path` is another one when the block ends, in place of
    what the block itself may have found wrong in half a file.
    """
    before = _identity(path)
    error = None
    try:
        yield
    except MarketDataError as found:
        error = found
    if _identity(path) != before:
        raise MarketDataError(
            f"{path}: changed while it was read, so nothing is written: run the command again when "
            "the file is complete."
        ) from error
    if error:
        raise error


def _identity(path):
    """What tells a file that is written to, or replaced, from the one it was."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
