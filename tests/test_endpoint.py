"""An agent behind a real server on this machine that answers as endpoints do on a bad day."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sagetune.sample import Message
from sagetune.trajectories.agents import Said
from sagetune.trajectories.episode import BadReply, CutOff

pytest.importorskip("openai", reason="the extra `agents` is not installed")

from sagetune.trajectories import endpoint
from sagetune.trajectories.endpoint import EndpointAgent, EndpointError

KEY = "sk-very-secret-0123456789"
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
ASKED: list[Message] = [{"role": "user", "content": "1 + 2?"}]
CUT = object()
"""An answer whose connection breaks off half way."""


def completion(content: str | None = None, arguments: Any = None, finish_reason: str = "stop") -> str:
    """The body of a chat completion: text, or a call of `add`."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if arguments is not None:
        call = {"id": "call_x", "type": "function", "function": {"name": "add", "arguments": arguments}}
        message["tool_calls"] = [call]
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


class Server:
    """Answers each request with the next of `answers`: (status, body), a body, CUT, or seconds of silence."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                outer.requests.append(json.loads(self.rfile.read(length)))
                outer.headers.append(dict(self.headers))
                outer.answer(self, outer.answers.pop(0))

            def log_message(self, *arguments: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, answer: Any) -> None:
        if isinstance(answer, float):
            time.sleep(answer)
            return
        status, body = answer if isinstance(answer, tuple) else (200, completion("cut") if answer is CUT else answer)
        data = body.encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.send_header("retry-after-ms", "1")
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if answer is CUT else data)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def make(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EndpointAgent]:
    """The agent at the server, with short waits between repetitions."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "FIRST_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    return lambda **options: EndpointAgent("m", server.url, **options)


def ask(agent: EndpointAgent, tools: list[dict[str, Any]] = TOOLS, messages: list[Message] = ASKED) -> Said:
    return asyncio.run(agent.act(messages, tools))


def test_a_tool_call_comes_back_decoded_with_its_cost(server: Server, make: Any) -> None:
    server.answers = [completion(None, '{"terms": [1, 2]}')]
    message, prompt_tokens, completion_tokens = ask(make(temperature=0.5, max_tokens=7))
    function = {"name": "add", "arguments": {"terms": [1, 2]}}
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_x", "type": "function", "function": function}],
    }
    assert (prompt_tokens, completion_tokens) == (9, 4)
    assert server.requests == [
        {"model": "m", "messages": ASKED, "tools": TOOLS, "temperature": 0.5, "max_tokens": 7},
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_conversation_goes_out_as_the_api_takes_it(server: Server, make: Any) -> None:
    server.answers = [completion("3")]
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": "é"}}}
    messages: Any = [
        *ASKED,
        {"role": "assistant", "content": "", "tool_calls": [call], "loss": False},
        {"role": "tool", "content": "3", "tool_call_id": "call_1", "name": "add"},
    ]
    assert ask(make(), [], messages).message == {"role": "assistant", "content": "3"}
    sent = server.requests[0]
    assert "tools" not in sent
    assert sent["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**call, "function": {"name": "add", "arguments": '{"a": "é"}'}}],
    }
    assert sent["messages"][2] == {"role": "tool", "content": "3", "tool_call_id": "call_1"}


SILENCE, PATIENCE = 0.4, (30.0, 0.2)
"""Seconds that the server says nothing, and that an agent waits: a busy machine must not look like silence."""
TROUBLE = {
    "too many requests": (429, "{}"),
    "server error": (500, "oops"),
    "silence": SILENCE,
    "a broken connection": CUT,
    "half a JSON": completion("3")[:40],
    "a web page": "<html>busy</html>",
    "an error with status 200": '{"error": {"message": "overloaded"}}',
    "no choice": '{"choices": []}',
    "a choice of the wrong form": '{"choices": [{"message": {"content": 3}}]}',
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_trouble_that_passes_is_repeated(server: Server, make: Any, trouble: Any) -> None:
    server.answers = [trouble, completion("3")]
    assert ask(make(timeout=PATIENCE[trouble == SILENCE])).message["content"] == "3"
    assert len(server.requests) == 2


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_trouble_that_stays_is_an_error_of_the_endpoint(server: Server, make: Any, trouble: Any) -> None:
    server.answers = [trouble] * 3
    with pytest.raises(EndpointError, match=r"^m at http://127\.0\.0\.1"):
        ask(make(timeout=PATIENCE[trouble == SILENCE], max_retries=2))
    assert len(server.requests) == 3


def test_all_kinds_of_trouble_share_one_budget(server: Server, make: Any) -> None:
    server.answers = [(429, "{}"), "nonsense", (500, ""), "nonsense", completion("3")]
    with pytest.raises(EndpointError):
        ask(make(max_retries=3))
    assert len(server.requests) == 4


def test_a_refused_request_is_not_repeated(server: Server, make: Any) -> None:
    server.answers = [(400, '{"error": {"message": "unknown model"}}')]
    with pytest.raises(EndpointError, match="unknown model"):
        ask(make())


def test_nobody_there_is_an_error_of_the_endpoint(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    with pytest.raises(EndpointError, match="Connection error"):
        ask(EndpointAgent("m", "http://127.0.0.1:9/v1", max_retries=1))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion(None, '{"terms": [1, '), "arguments of add are not JSON"),
        (completion(None, "[1, 2]"), "arguments of add must be an object"),
        (completion(None, '"{}"'), "arguments of add must be an object"),
        (completion(None, '{"x": NaN}'), "NaN is not JSON"),
        (completion(None, ""), "arguments of add are not JSON"),
        (completion(""), "the reply is empty"),
        (completion("It is", finish_reason="length"), "cut off after 4 tokens"),
    ],
)
def test_what_the_model_got_wrong_is_a_bad_reply(server: Server, make: Any, body: str, reason: str) -> None:
    server.answers = [body]
    with pytest.raises(BadReply, match=reason) as caught:
        ask(make())
    assert (caught.value.prompt_tokens, caught.value.completion_tokens) == (9, 4)
    assert len(server.requests) == 1


def test_a_conversation_that_does_not_fit_is_a_bad_reply(server: Server, make: Any) -> None:
    server.answers = [(400, '{"error": {"message": "exceeds the maximum context length of 8"}}')]
    with pytest.raises(BadReply, match="does not fit"):
        ask(make())


@pytest.mark.parametrize(
    "answer",
    [
        (401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})),
        (400, json.dumps({"error": {"message": f"maximum context length; key {KEY}"}})),
        (500, json.dumps({"error": {"message": KEY}})),
        KEY,
        completion(None, KEY),
        completion(f"Your key is {KEY}."),
    ],
)
def test_the_key_shows_up_nowhere(server: Server, make: Any, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server.answers = [answer]
    agent = make(max_retries=0)
    try:
        shown = repr(ask(agent))
    except (BadReply, EndpointError) as error:
        chain = [error, error.__cause__, *([] if error.__suppress_context__ else [error.__context__])]
        shown = repr(chain) + getattr(error, "text", "")
    assert KEY not in shown + repr(agent) + str(agent) + caplog.text
    assert "[key]" in shown


def test_a_word_in_place_of_a_key_is_left_in_replies(
    server: Server, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    server.answers = [completion("The list is EMPTY.")]
    assert ask(make()).message["content"] == "The list is EMPTY."


def test_a_missing_key_is_named_where_the_server_wants_one(
    server: Server, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    server.answers = [completion("3"), (401, "{}")]
    agent = make(api_key_env="OTHER_KEY")
    assert ask(agent).message["content"] == "3"
    with pytest.raises(EndpointError, match=r"no key in \$OTHER_KEY"):
        ask(agent)


def test_no_proxy_and_no_redirect_is_followed(server: Server, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.answers = [completion("3"), (307, "{}")]
    assert ask(make()).message["content"] == "3"
    with pytest.raises(EndpointError):
        ask(make(max_retries=0))


def test_requests_run_side_by_side(server: Server, make: Any) -> None:
    server.answers = [completion(str(number)) for number in range(8)]
    agent = make()

    async def all_of_them() -> list[Said]:
        return await asyncio.gather(*(agent.act(ASKED, TOOLS) for _ in range(8)))

    assert {said.message["content"] for said in asyncio.run(all_of_them())} == set("01234567")


@pytest.mark.parametrize("address", ["127.0.0.1:8000/v1", "ftp://host/v1", "https://user:secret@host/v1", "http:///v1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="base_url must") as caught:
        EndpointAgent("m", address)
    assert "secret" not in str(caught.value)


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'sagetune\[agents\]'"):
        EndpointAgent("m", "http://127.0.0.1:9/v1")


def test_what_a_cut_off_reply_said_is_its_text_and_not_the_json_around_it(server: Server, make: Any) -> None:
    server.answers = [completion("#### 18", finish_reason="length")]
    with pytest.raises(CutOff) as cut:
        ask(make())
    assert cut.value.text == "#### 18"
