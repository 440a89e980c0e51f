"""A lock that admits one process at a time to a folder.

The kernel locks the file `.lock`, and releases the lock when the process dies for any reason.
Some cluster file systems have no such locks. There the file names the owner, and the lock is
free if that process no longer exists.
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
    """Another process holds the lock of the folder."""


class Lock:
    """The lock of a folder, held until `close` or until this process ends.

    Args:
        path: path of the folder.
        flag: name of the flag of the folder, for messages.

    Raises:
        InUseError: if another process holds the lock; the message names the process.
        UserError: if the folder cannot be written, or `.lock` is a link or no regular file.
    """

    def __init__(self, path: pathlib.Path, flag: str = "--workdir") -> None:
        self._path, self._flag = path, flag
        try:
            with contextlib.suppress(FileNotFoundError):
                self._check_file(os.lstat(path / _NAME))  # because opening a FIFO may block
            # Opening keeps the content, which names the owner until the lock is taken.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._file: IO[str] = os.fdopen(
                os.open(path / _NAME, flags, 0o644), "r+", errors="replace"
            )
            self._folder = os.stat(path)
        except OSError as error:
            raise files.write_error(path, error) from error
        try:
            self._check_file(os.fstat(self._file.fileno()))  # the file may have been replaced
            self._take()
            self._write(json.dumps(_identity()))
        except OSError as error:
            self._file.close()
            raise files.write_error(path, error) from error
        except UserError:
            self._file.close()
            raise

    def _check_file(self, status: os.stat_result) -> None:
        """Raises `UserError` unless `.lock` is a regular file without other hard links."""
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
            raise UserError(
                f"{self._flag}={self._path}: {_NAME} there is {kind}, and must be a regular file; "
                "delete it if no process runs there"
            )

    def _take(self) -> None:
        self._file.seek(0)
        owner = self._file.read()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use(owner) from None
        except OSError:  # the file system has no locks
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
        """Raises `UserError` if the folder was removed or replaced."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise UserError(
                f"{self._flag}={self._path} was removed while it was in use ({error.strerror}); "
                "restore it, or start again in another folder"
            ) from error
        if not os.path.samestat(status, self._folder):
            raise UserError(
                f"{self._flag}={self._path} was replaced while it was in use; this run stops "
                "writing there"
            )

    def close(self) -> None:
        """Releases the lock."""
        if not self._file.closed:
            with contextlib.suppress(OSError):  # a failing disk may be the reason to close
                self._write("")
            with contextlib.suppress(OSError):
                self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _identity() -> dict[str, str | int]:
    """Returns the description of this process that the lock file stores."""
    return {"host": platform.node(), "pid": os.getpid(), "began": _began(os.getpid())}


def _began(pid: int) -> str:
    """Returns the start of a process, in ticks since the machine booted; empty if it has ended.

    The pid alone is not enough, because another process may have it by now.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _is_alive(owner: str) -> bool:
    """Returns whether the owner may still run; on another machine this is assumed."""
    try:
        stored = strict_json.parse(owner)
        host, pid, began = stored["host"], int(stored["pid"]), str(stored["began"])
    except (ValueError, KeyError, TypeError):
        return False  # the file names no owner
    return host != platform.node() or (began != "" and _began(pid) == began)
