"""Waiting in the event loop for what blocks, in a thread that does not hold up the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns, or awaitably returns.

    asyncio's own threads are few, so that waiting for one would count as the agent's time, and one that never comes
    back would keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if done.done():  # nobody waits any more
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result, raised = None, None
        try:
            result = function(*arguments)
        except BaseException as error:  # it is raised again where it is awaited
            raised = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, raised)

    threading.Thread(target=work, daemon=True).start()
    result = await done
    return await result if asyncio.iscoroutine(result) or asyncio.isfuture(result) else result
