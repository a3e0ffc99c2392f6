"""Commands as processes of their own, forked from one that has imported everything."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .campaign import Hang
from .child import start
from .tiny import Said

os.environ.setdefault("OMP_NUM_THREADS", "1")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["contrec.interface.cli", "contrec.interface.report"])


@dataclass
class Running:
    """A process and the files that hold what it says."""

    process: multiprocessing.Process
    said: Path

    def end(self, seconds: float = 120) -> Said:
        """Wait for the end; raises `Hang` where it does not come."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise Hang(f"a process did not end within {seconds} s")
        return Said(self.process.exitcode, self.text("out"), self.text("err"))

    def text(self, stream: str) -> str:
        """Return what was said so far on `out` or `err`."""
        path = Path(f"{self.said}.{stream}")
        return path.read_text(errors="replace") if path.exists() else ""

    def kill_after(self, seconds: float, how: int) -> Said:
        """Send a signal after some time; the process may have ended before."""
        time.sleep(seconds)
        if self.process.is_alive():
            os.kill(self.process.pid, how)
        return self.end()


def spawn(arguments, folder, world, said, at=None, how=signal.SIGKILL) -> Running:
    """Start `contrec`; it dies at file operation `at`, if that is given."""
    words = [str(a) for a in arguments]
    process = CONTEXT.Process(target=start, args=(words, folder, world, said, at, how))
    process.start()
    return Running(process, said)


def operations(arguments, folder, world, said) -> int:
    """Run a command to its end; return how many file operations it did."""
    ended = spawn(arguments, folder, world, said, at=0).end()
    if ended.code != 0:
        raise AssertionError(f"exit code {ended.code}: {ended.err[-1500:]}")
    return int(Path(f"{said}.seen").read_text())
