"""A process that dies at the n-th change of the disk, in the test's own process.

`crash_at(n)` lets everything up to the n-th change happen, then raises `Crash`. It
refuses every further change, because a dead process does not clean up. Changes are: a
file opened for writing, a rename, a removal, a new folder, and an fsync. With
`torn=True` the files that were written but never synced lose their content at the
crash, as they may when the power fails.

    for n in itertools.count():
        with crash_at(n) as crash:
            work()
        if not crash.happened:
            break
        check_what_is_left()
"""

import builtins
import contextlib
import io
import os
from pathlib import Path

CHANGES = (
    "replace",
    "rename",
    "unlink",
    "remove",
    "rmdir",
    "mkdir",
    "fsync",
    "link",
    "symlink",
    "truncate",
)


class Crash(BaseException):
    """Stands for the end of the process."""


class CrashPoint:
    """Counts changes of the disk, and dies at one of them."""

    def __init__(self, at, torn=False, inside=None):
        self.at, self.torn, self.count, self.happened, self.trace = (
            at,
            torn,
            0,
            False,
            [],
        )
        self.inside, self.unsynced = None if inside is None else str(inside), set()

    def step(self, name, target):
        if self.happened:
            raise Crash(f"{name} after the crash")
        if (
            self.inside is not None
            and isinstance(target, (str, Path))
            and not str(target).startswith(self.inside)
        ):
            return
        self.trace.append((name, str(target)))
        self.count += 1
        if self.count > self.at:
            self.happened = True
            if self.torn:
                self._lose()
            raise Crash(f"{name} {target}")

    def _lose(self):
        for path in self.unsynced:
            with contextlib.suppress(OSError):
                size = os.stat(path).st_size
                with self.real_open(path, "r+b") as file:
                    file.truncate(size // 2)

    def wrap(self, name, real):
        def changed(*args, **kwargs):
            self.step(name, args[0])
            result = real(*args, **kwargs)
            if name == "fsync":
                with contextlib.suppress(OSError):
                    self.unsynced.discard(os.readlink(f"/proc/self/fd/{args[0]}"))
            if name in ("replace", "rename"):
                old, new = (os.path.abspath(p) for p in args[:2])
                self.unsynced = {
                    new + p[len(old) :] if p == old or p.startswith(old + "/") else p
                    for p in self.unsynced
                }
            return result

        return changed

    def wrap_open(self, real):
        def opened(file, mode="r", *args, **kwargs):
            if (
                isinstance(file, (str, os.PathLike))
                and set(mode) & set("wax+")
                and not str(file).startswith("/dev/")
            ):
                self.step("open", file)
                self.unsynced.add(os.path.abspath(file))
            return real(file, mode, *args, **kwargs)

        return opened

    def wrap_low_open(self, real):
        def opened(path, flags, *args, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR) and not str(path).startswith("/dev/"):
                self.step("os.open", path)
            return real(path, flags, *args, **kwargs)

        return opened


@contextlib.contextmanager
def crash_at(n, torn=False, inside=None):
    """The process dies at the change that follows the first `n`.

    What it still does to the disk does not happen.
    """
    point = CrashPoint(n, torn, inside)
    point.real_open = builtins.open
    kept = {name: getattr(os, name) for name in CHANGES}
    low, high = os.open, io.open
    try:
        for name, real in kept.items():
            setattr(os, name, point.wrap(name, real))
        os.open = point.wrap_low_open(low)
        builtins.open = io.open = point.wrap_open(high)
        with contextlib.suppress(Crash):
            yield point
    finally:
        for name, real in kept.items():
            setattr(os, name, real)
        os.open, io.open, builtins.open = low, high, high


def count_changes(work, inside=None):
    """How many changes of the disk `work` makes, and which."""
    with crash_at(10**9, inside=inside) as point:
        work()
    return point.trace


def left_behind(folder):
    """Temporary files and folders below a folder."""
    return sorted(
        str(p.relative_to(folder))
        for p in Path(folder).rglob("*")
        if p.name.startswith(".")
        or p.name.endswith((".part", ".old"))
        or ".next." in p.name
    )
