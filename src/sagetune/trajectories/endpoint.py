"""An agent behind an OpenAI-compatible endpoint (a hosted model, vLLM, llama.cpp, Ollama). Nothing else is contacted.

Trouble that may pass (429, 5xx, no answer, an answer that is no chat completion) is repeated within one budget; what
stays is an EndpointError. What the model itself got wrong is a BadReply. The key is in neither: it comes from the
environment, and what an endpoint repeats of it is blotted out before anything is read.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator

from sagetune.evaluation.calls import function_call
from sagetune.sample import Message, ToolCall
from sagetune.trajectories.agents import Said
from sagetune.trajectories.episode import BadReply, CutOff

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0
"""Seconds before an answer that is no chat completion is asked for again; the SDK waits as long for what it repeats."""
SHORTEST_SECRET = 8
"""Characters; a shorter key is a word that a local server asks for, such as vLLM's EMPTY, and may stand in replies."""

_TEXT = {"type": ["string", "null"]}
_CALL = {
    "type": "object",
    "required": ["function"],
    "properties": {"id": _TEXT, "function": {"type": "object", "required": ["name", "arguments"]}},
}
_COUNT = {"type": ["integer", "null"]}
COMPLETION = Draft202012Validator(
    {
        "type": "object",
        "required": ["choices"],
        "properties": {
            "choices": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["message"],
                    "properties": {
                        "finish_reason": _TEXT,
                        "message": {
                            "type": "object",
                            "properties": {
                                "content": _TEXT,
                                "tool_calls": {"type": ["array", "null"], "items": _CALL},
                            },
                        },
                    },
                },
            },
            "usage": {
                "type": ["object", "null"],
                "properties": {"prompt_tokens": _COUNT, "completion_tokens": _COUNT},
            },
        },
    }
)
"""What is read of a chat completion."""


class EndpointError(RuntimeError):
    """The endpoint does not answer, or not with a chat completion: no fault of the agent."""


class EndpointAgent:
    """A model behind `base_url`.

    api_key_env: the environment variable with the key; a local server may need none. max_tokens: of one reply; a longer
    one is cut off, which is a BadReply. max_retries: repetitions of one request. timeout: seconds without an answer.
    Raises ValueError without the package openai and for an address that is not http(s) or carries a password.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 1.0,
        max_tokens: int = 1024,
        max_retries: int = 5,
        timeout: float = 60.0,
    ) -> None:
        _check_address(base_url)
        try:
            import openai  # noqa: F401  # two seconds that only this agent costs
        except ImportError as error:
            raise ValueError("agent: an endpoint needs the package openai: pip install 'sagetune[agents]'") from error
        self._model = model
        self._base_url = base_url
        self._api_key_env = api_key_env
        self._key = os.environ.get(api_key_env, "").strip()
        self._sampling = {"temperature": temperature, "max_tokens": max_tokens}
        self._max_retries = max_retries
        self._timeout = timeout
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def act(self, messages: list[Message], tools: list[dict[str, Any]]) -> Said:
        """Raises BadReply for calls that are not JSON, a reply cut off and a conversation too long; EndpointError."""
        request: dict[str, Any] = {"messages": [_wire(message) for message in messages], **self._sampling}
        if tools:
            request["tools"] = tools
        left = self._max_retries
        while True:
            text, retries = await self._ask(request, left)
            left -= retries
            body = _completion(text)
            if body is not None:
                return _said(body)
            if left <= 0:
                raise EndpointError(f"{self._where}: the answer is no chat completion: {text[:200]!r}")
            await asyncio.sleep(min(FIRST_DELAY * 2 ** (self._max_retries - left), LONGEST_DELAY))
            left -= 1

    async def _ask(self, request: dict[str, Any], max_retries: int) -> tuple[str, int]:
        """The answer's text, and how often the request was repeated for it."""
        import openai

        completions = self._connected().with_options(max_retries=max_retries).chat.completions
        try:
            raw = await completions.with_raw_response.create(model=self._model, **request)
        except openai.APIStatusError as error:
            detail = self._without_key(str(error))
            # `from None`: the original holds the request and its key
            if error.status_code == 400 and ("context_length" in detail or "context length" in detail):
                raise BadReply(f"the conversation does not fit the model: {detail}") from None
            hint = f" (no key in ${self._api_key_env})" if error.status_code == 401 and not self._key else ""
            raise EndpointError(f"{self._where}: {detail}{hint}") from None
        except openai.OpenAIError as error:
            detail = f"{error} {error.__cause__ or ''}".strip()
            raise EndpointError(f"{self._where}: {self._without_key(detail)}") from None
        return self._without_key(raw.text), raw.retries_taken

    def _connected(self) -> AsyncOpenAI:
        """The client of this event loop: its connections cannot be used in another one."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._loop = loop
            self._client = AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._key or "none",  # the SDK insists on one
                timeout=self._timeout,
                # No proxy of the environment and no redirect: the conversation goes to base_url and nowhere else.
                http_client=DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False, timeout=self._timeout),
            )
        return self._client

    @property
    def _where(self) -> str:
        return f"{self._model} at {self._base_url}"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if len(self._key) >= SHORTEST_SECRET else text


def _check_address(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"agent: base_url must be an http or https address, got {base_url!r}")
    if "@" in parts.netloc or parts.query:
        raise ValueError("agent: base_url must hold no password and no query: the key comes from the environment")


def _wire(message: Message) -> dict[str, Any]:
    """The message as the API takes it: arguments as JSON text, nothing that only we know."""
    wire: dict[str, Any] = {"role": message["role"], "content": message["content"]}
    if "tool_call_id" in message:
        wire["tool_call_id"] = message["tool_call_id"]
    if message.get("tool_calls"):
        wire["tool_calls"] = [_wire_call(call) for call in message["tool_calls"]]
    return wire


def _wire_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": call["function"]["name"], "arguments": arguments},
    }


def _completion(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if COMPLETION.is_valid(body) else None


def _said(body: dict[str, Any]) -> Said:
    """The first choice. Raises BadReply where it is cut off, empty, or calls with arguments that are no JSON object."""
    choice, usage = body["choices"][0], body.get("usage") or {}
    tokens = {name: usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
    written = choice["message"]
    text = json.dumps(written, ensure_ascii=False)
    if choice.get("finish_reason") == "length":
        reason = f"the reply was cut off after {tokens['completion_tokens']} tokens"
        raise CutOff(reason, written.get("content") or "", **tokens)
    message: Message = {"role": "assistant", "content": written.get("content") or ""}
    try:
        calls = [_tool_call(call, number) for number, call in enumerate(written.get("tool_calls") or [], start=1)]
    except (ValueError, RecursionError) as error:
        raise BadReply(str(error), text, **tokens) from error
    if calls:
        message["tool_calls"] = calls
    elif not message["content"]:
        raise BadReply("the reply is empty", text, **tokens)
    return Said(message, **tokens)


def _tool_call(call: dict[str, Any], number: int) -> ToolCall:
    try:
        function = function_call(call["function"])
    except json.JSONDecodeError as error:
        name = call["function"]["name"]
        raise ValueError(f"the arguments of {name} are not JSON: {error}") from error
    return {"id": call.get("id") or f"call_{number}", "type": "function", "function": function}
