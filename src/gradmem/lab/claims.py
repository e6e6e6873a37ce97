"""Who is at work on what: claims in a folder that several processes and machines share.

A claim is a small file that names its holder, who touches it every few seconds. It is given up when
the work is done, and taken over by another when its holder is dead: on the same machine as soon as
the process is gone, elsewhere when the file has not been touched for a while. Decisions are made
under a file lock, which the system releases when its holder dies.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from gradmem.lab.files import cannot_write

HEARTBEAT = 5.0  # seconds between two touches of a claim
PATIENCE = 60.0  # seconds without a touch after which a holder on another machine is taken for dead


@dataclass(frozen=True)
class Holder:
    """A process: which machine, which number there, since when."""

    machine: str
    pid: int
    started: str  # the system's own stamp, so that a number used again is another process

    @property
    def is_dead(self) -> bool:
        """Whether this is known for certain; of another machine's process it never is."""
        if self.machine != machine() or os.name != "posix":
            return False
        return started(self.pid) != self.started


class Claims:
    """Claims in ``folder``."""

    def __init__(
        self, folder: Path, *, patience: float = PATIENCE, heartbeat: float = HEARTBEAT
    ) -> None:
        self.folder = folder
        self._patience = patience
        self._heartbeat = heartbeat
        self._lock = FileLock(
            folder / "lock"
        )  # one object, so that a block within a block is let in
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Try to claim ``name`` for the block; yields whether it is ours."""
        token = uuid.uuid4().hex
        if not self._take(name, token):
            yield False
            return
        try:
            with self._touching(name):
                yield True
        finally:
            self._give_up(name, token)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """The lock under which claims are made and shared files appended to; held for moments."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = self._lock.acquire(poll_interval=0.005)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        with held:
            yield

    def living(self) -> int:
        """How many processes hold a claim and are not known to be dead."""
        claims = [self._read(path) for path in self.folder.glob("*.claim")]
        holders = {_holder(claim) for claim in claims if claim}
        return sum(not holder.is_dead for holder in holders)

    def sweep(self) -> None:
        """Remove the claims of processes that died over them."""
        with self.deciding():
            for path in self.folder.glob("*.claim"):
                claim = self._read(path)
                if claim is None or _holder(claim).is_dead:
                    _remove(path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.claim"

    def _take(self, name: str, token: str) -> bool:
        path = self._path(name)
        with self.deciding():
            there = self._read(path) if path.exists() else None
            if there is not None and not self._is_stale(path, there):
                return False
            try:
                path.write_text(json.dumps({"token": token, **_me().__dict__}), encoding="utf-8")
            except OSError as error:
                _remove(path)
                raise cannot_write(path, error) from error
        return True

    def _is_stale(self, path: Path, claim: dict[str, Any]) -> bool:
        """Whether its holder is dead.

        The clocks of two machines may differ, so what counts is how long this process has seen the
        file unchanged, by its own clock.
        """
        if _holder(claim).is_dead:
            return True
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return True
        key = (path.name, claim["token"])
        before, since = self._seen.get(key, (None, 0.0))
        if before != touched:
            self._seen[key] = (touched, time.monotonic())
            return False
        return time.monotonic() - since > self._patience

    @contextmanager
    def _touching(self, name: str) -> Iterator[None]:
        path, stop = self._path(name), threading.Event()

        def touch() -> None:
            while not stop.wait(self._heartbeat):
                try:
                    os.utime(path)
                except OSError:  # gone or unreachable for now: the next beat tries again
                    continue

        thread = threading.Thread(target=touch, name=f"claim {name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _give_up(self, name: str, token: str) -> None:
        path = self._path(name)
        with self.deciding():
            claim = self._read(path)
            if claim and claim["token"] == token:  # else somebody took us for dead
                _remove(path)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """A claim; None if it is gone, or half written by a process that died over it."""
        try:
            claim = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return claim if isinstance(claim, dict) and claim.keys() >= _KEYS else None


_KEYS = {"token", "machine", "pid", "started"}


def _holder(claim: dict[str, Any]) -> Holder:
    return Holder(claim["machine"], claim["pid"], claim["started"])


def _me() -> Holder:
    return Holder(machine(), os.getpid(), started(os.getpid()) or "")


@cache
def machine() -> str:
    """A name for the system in which a process number means the same process."""
    parts = [platform.node()]
    for read in (_boot, _process_space):
        try:
            parts.append(read())
        except OSError:  # not Linux
            continue
    return "/".join(parts)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _process_space() -> str:
    """Containers on one host may share its name, but not the numbers of their processes."""
    return Path("/proc/self/ns/pid").readlink().name


def started(pid: int) -> str | None:
    """When a process of this machine began, as the system writes it; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return _is_there(pid)
    state, start = fields[0], fields[19]
    return None if state in ("Z", "X") else start


def _is_there(pid: int) -> str | None:
    """For systems without /proc: whether the number is in use."""
    if Path("/proc/self").exists() or os.name != "posix":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # stays behind as the claim of a process that will be gone
        return
