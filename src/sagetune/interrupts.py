"""SIGTERM and Ctrl-C: save first, then leave with the exit code that the shell expects."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(BaseException):
    """The run was asked to stop. `exit_code` is 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM.

    Like KeyboardInterrupt it is no Exception: a library that catches its own errors must not swallow it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interrupts:
    """Turns SIGINT and SIGTERM into :class:`Interrupted`, at once or, inside training, after the current batch.

    A second signal while the first is waiting acts at once, by the system's default.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.waiting: int | None = None
        """The signal that came while `deferred`."""
        self.deferred = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # no other thread can take signals
            self._before = {number: signal.getsignal(number) for number in self.SIGNALS}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def install(self) -> None:
        """Take the signals (again: Lightning takes SIGTERM when its trainer starts)."""
        for number in self._before:
            signal.signal(number, self._handle)

    def raise_if_waiting(self) -> None:
        if self.waiting is not None:
            raise Interrupted(self.waiting)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred:
            raise Interrupted(number)
        self.waiting = number
        for other in self.SIGNALS:
            signal.signal(other, signal.SIG_DFL)
