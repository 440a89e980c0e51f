"""One process at a time in a folder.

The kernel's lock on the file `.lock`, which it lifts when its process dies, however it died.
Some cluster file systems have no such locks: there the file says who has the folder, and a
process that is gone has it no more.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import stat
from typing import IO

from hvi_tf.config import strict_json
from hvi_tf.errors import UserError
from hvi_tf.storage import files

_NAME = ".lock"
_KINDS = {
    stat.S_IFREG: "a hard link",
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
}


class InUseError(UserError):
    """Another process has the folder."""


class Lock:
    """A folder that this process has until `close`, or until it ends.

    Args:
        path: of the folder.
        flag: that names the folder, for messages.

    Raises:
        InUseError: if another process has it; says which.
        UserError: if it cannot be written, or its `.lock` is a link or no regular file.
    """

    def __init__(self, path: pathlib.Path, flag: str = "--workdir") -> None:
        self._path, self._flag = path, flag
        try:
            with contextlib.suppress(FileNotFoundError):
                self._check_file(os.lstat(path / _NAME))  # before it is opened: a FIFO may wait
            # Opening does not empty it: until the lock is taken, it names the owner.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._file: IO[str] = os.fdopen(
                os.open(path / _NAME, flags, 0o644), "r+", errors="replace"
            )
            self._folder = os.stat(path)
        except OSError as error:
            raise files.write_error(path, error) from error
        try:
            self._check_file(os.fstat(self._file.fileno()))  # it may be another file by now
            self._take()
            self._write(json.dumps(_identity()))
        except OSError as error:
            self._file.close()
            raise files.write_error(path, error) from error
        except UserError:
            self._file.close()
            raise

    def _check_file(self, found: os.stat_result) -> None:
        """Raises `UserError` unless `.lock` is a regular file without other hard links."""
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
            raise UserError(
                f"{self._flag}={self._path}: {_NAME} there is {kind}, and must be a file of its "
                "own; delete it if no process runs there"
            )

    def _take(self) -> None:
        self._file.seek(0)
        owner = self._file.read()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use(owner) from None
        except OSError:  # there are no locks here
            if _is_alive(owner):
                raise self._in_use(owner, f" (if not, delete {self._path / _NAME})") from None

    def _write(self, owner: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(owner)
        self._file.flush()

    def _in_use(self, owner: str, hint: str = "") -> InUseError:
        try:
            who = "process {pid} on {host}".format(**strict_json.parse(owner))
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return InUseError(
            f"{self._flag}={self._path}: {who} is running there{hint}; wait for it or name another"
        )

    def check(self) -> None:
        """Raises `UserError` if the folder has gone, or another one has taken its place."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise UserError(
                f"{self._flag}={self._path} has gone while it was in use ({error.strerror}); "
                "bring it back, or begin anew elsewhere"
            ) from error
        if not os.path.samestat(found, self._folder):
            raise UserError(
                f"{self._flag}={self._path} was replaced while it was in use; nothing more is "
                "written there"
            )

    def close(self) -> None:
        """Gives the folder free for another process."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # the disk may be the reason to end
                self._write("")
            with contextlib.suppress(OSError):
                self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _identity() -> dict[str, str | int]:
    return {"host": platform.node(), "pid": os.getpid(), "began": _began(os.getpid())}


def _began(pid: int) -> str:
    """When a process of this machine began, in ticks since it booted; nothing if it is gone.

    A pid alone may by now be another process'.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _is_alive(owner: str) -> bool:
    """Whether the process that wrote this may still run; another machine's may."""
    try:
        found = strict_json.parse(owner)
        host, pid, began = found["host"], int(found["pid"]), str(found["began"])
    except (ValueError, KeyError, TypeError):
        return False  # nobody's
    return host != platform.node() or (began != "" and _began(pid) == began)
