"""A stand-in for W&B's server: takes the calls of an upload and remembers what came."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "local" + "0" * 40
TEAM = {"id": "e1", "name": "local"}


@dataclass
class Received:
    """By run id: what the run was created with, and the lines of each of its streams by number."""

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, dict[str, dict[int, str]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)

    def history(self, run: str) -> list[dict[str, Any]]:
        lines = self.streams[run]["wandb-history.jsonl"]
        return [json.loads(lines[number]) for number in sorted(lines)]

    def summary(self, run: str) -> dict[str, Any]:
        lines = self.streams[run]["wandb-summary.json"]
        return json.loads(lines[max(lines)])


@contextmanager
def wandb_server() -> Iterator[Received]:
    """Serve on a free port of this machine."""
    received = Received()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(received))
    received.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


def _handler(received: Received) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

        def do_GET(self) -> None:
            self._answer({})

        def do_PUT(self) -> None:
            received.files[self.path] = _body(self)
            self._answer({})

        def do_POST(self) -> None:
            body = _body(self)
            if self.path.startswith("/graphql"):
                asked = json.loads(body)
                name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                assert name is not None
                self._answer({"data": _graphql(received, name[1], asked.get("variables") or {})})
            elif "file_stream" in self.path:
                _stream(received, self.path.split("/")[4], json.loads(body))
                self._answer({"exitcode": None, "limits": {}})
            else:
                self._answer({}, 404)

        def _answer(self, content: Any, code: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while size := int(request.rfile.readline().strip(), 16):
            body += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
    else:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    return gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body


def _stream(received: Received, run: str, sent: dict[str, Any]) -> None:
    for name, content in (sent.get("files") or {}).items():
        lines = received.streams.setdefault(run, {}).setdefault(name, {})
        lines |= {content["offset"] + number: line for number, line in enumerate(content["content"])}
    if sent.get("complete"):
        received.runs[run]["exit_code"] = sent["exitcode"]


def _graphql(received: Received, operation: str, given: dict[str, Any]) -> dict[str, Any]:
    if operation == "UpsertBucket":
        return _upsert(received, given)
    if operation == "CreateRunFiles":
        place = f"{received.url}/upload/{given['run']}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
    if operation == "Viewer":
        user = {"id": "u1", "entity": "local", "username": "local", "flags": "{}"}
        return {"viewer": user | {"teams": {"edges": [{"node": {"name": "local"}}]}}}
    if operation == "RunResumeStatus":
        return {"model": {"bucket": None, "id": "p1", "name": given.get("project"), "entity": TEAM}}
    return _artifact(received, operation, given)


def _upsert(received: Received, given: dict[str, Any]) -> dict[str, Any]:
    name = str(given.get("name"))
    run = received.runs.setdefault(name, {})
    run |= {key: value for key, value in given.items() if value is not None}
    project = {"id": "p1", "name": given.get("project"), "entity": TEAM}
    names = {"id": f"id-{name}", "name": name, "displayName": given.get("displayName") or name}
    rest = {"description": None, "config": given.get("config"), "sweepName": None, "historyLineCount": 0}
    return {"upsertBucket": {"bucket": {**names, **rest, "project": project}, "inserted": True}}


def _artifact(received: Received, operation: str, given: dict[str, Any]) -> dict[str, Any]:
    if operation == "CreateArtifact":
        artifact = {"id": f"a{len(received.files)}-{len(received.committed)}", "state": "PENDING"}
        sequence = {"id": f"s-{artifact['id']}", "latestArtifact": None}
        return {"createArtifact": {"artifact": artifact | {"artifactSequence": sequence}}}
    if operation == "CreateArtifactManifest":
        place = f"{received.url}/upload/manifest/{given.get('artifactID')}"
        file = {"id": "f1", "name": "wandb_manifest.json", "displayName": "m", "uploadUrl": place, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m1", "file": file}}}
    if operation == "CreateArtifactFiles":
        edges = [{"node": _artifact_file(received, spec)} for spec in given["input"]["artifactFiles"]]
        return {"createArtifactFiles": {"files": {"edges": edges}}}
    if operation == "CommitArtifact":
        received.committed.add(given["artifactID"])
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
    return {}


def _artifact_file(received: Received, spec: dict[str, Any]) -> dict[str, Any]:
    place = f"{received.url}/upload/artifact/{spec['artifactID']}/{spec['name']}"
    names = {"id": "n", "name": spec["name"], "displayName": spec["name"], "uploadUrl": place, "storagePath": "x"}
    return {**names, "uploadHeaders": [], "artifact": {"id": spec["artifactID"]}, "uploadMultipartUrls": None}
