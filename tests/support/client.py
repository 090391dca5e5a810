"""A client of ComfyUI's HTTP and websocket interface, for tests and scripts."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket
from PIL import Image

Graph = dict[str, dict[str, Any]]
"""A workflow in API format: node id to ``{"class_type": ..., "inputs": {...}}``."""

JOB_TIMEOUT_S = 300.0
FREE_PAUSE_S = 1.0


class ApiError(RuntimeError):
    """An answer other than 2xx; ``status`` is the code and ``body`` the decoded JSON or text.

    Example: ``ApiError(400, {"error": {"message": "no prompt"}}).messages() == ["no prompt"]``.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status
        self.body = body

    def messages(self) -> list[str]:
        """Return every message and detail of a refused prompt, the nodes' own included."""
        if not isinstance(self.body, dict):
            return [str(self.body)]
        errors = [self.body.get("error", {})]
        for node in self.body.get("node_errors", {}).values():
            errors += node["errors"]
        pairs = [(e.get("message", ""), e.get("details", "")) for e in errors]
        return [": ".join(part for part in pair if part) for pair in pairs]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One websocket message: ``data`` is a dict, or bytes for a binary message.

    Example: ``Event(kind="progress", data={"node": "3", "value": 1, "max": 20})``.
    """

    kind: str
    data: Any


@dataclass(frozen=True, kw_only=True)
class ComfyJob:
    """A finished job.

    Example: ``client.run(graph).succeeded``.
    """

    prompt_id: str
    history: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        return self.history["status"]["status_str"] == "success"

    @property
    def outputs(self) -> dict[str, Any]:
        """The ``ui`` dictionaries of the output nodes, by node id."""
        return self.history["outputs"]

    def messages(self, kind: str) -> list[dict[str, Any]]:
        """Return the history's messages of one kind, such as ``execution_error``."""
        return [data for name, data in self.history["status"]["messages"] if name == kind]

    @property
    def error(self) -> str | None:
        """What the user reads when the job failed; None if it did not fail."""
        errors = self.messages("execution_error")
        return errors[0]["exception_message"].strip() if errors else None

    @property
    def failed_node(self) -> str | None:
        errors = self.messages("execution_error")
        return errors[0]["node_id"] if errors else None

    @property
    def was_interrupted(self) -> bool:
        return bool(self.messages("execution_interrupted"))

    @property
    def cached_nodes(self) -> set[str]:
        return {node for message in self.messages("execution_cached") for node in message["nodes"]}

    @property
    def executed_nodes(self) -> list[str]:
        """The nodes that ran, in order; needs the events of ``run``."""
        nodes = [e.data.get("node") for e in self.events if e.kind == "executing"]
        return [node for node in nodes if node is not None]

    def images(self, node_id: str | None = None) -> list[dict[str, str]]:
        """Return the ``{filename, subfolder, type}`` of every image, or of one node's."""
        nodes = self.outputs if node_id is None else {node_id: self.outputs.get(node_id, {})}
        return [image for output in nodes.values() for image in output.get("images", [])]


class ComfyClient:
    """Talks to one ComfyUI server.

    Example: ``ComfyClient("http://127.0.0.1:8188").run(load_graph(path)).images()``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex

    def request(self, path: str, data: bytes | None = None, content_type: str = "") -> bytes:
        """Send GET, or POST if there is data; raise ApiError for any refusal."""
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            body = error.read()
            try:
                raise ApiError(error.code, json.loads(body)) from None
            except ValueError:
                raise ApiError(error.code, body.decode(errors="replace")) from None

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post(self, path: str, body: Any) -> Any:
        answer = self.request(path, json.dumps(body).encode(), "application/json")
        return json.loads(answer) if answer else None

    def object_info(self, class_type: str | None = None) -> dict[str, Any]:
        """Return the schema of one node class, or of all by name."""
        if class_type is None:
            return self.get("/object_info")
        return self.get(f"/object_info/{class_type}")[class_type]

    def queue(self, graph: Graph, **extra: Any) -> str:
        """Queue a job and return its id; raise ApiError if any of its outputs is refused."""
        body = {"prompt": graph, "client_id": self.client_id, **extra}
        answer = self.post("/prompt", body)
        if answer["node_errors"]:  # ComfyUI answers 200 when another output is valid
            raise ApiError(200, answer)
        return answer["prompt_id"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self, *, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask for models and cached outputs to be dropped before the next job."""
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})
        time.sleep(FREE_PAUSE_S)  # a job that comes at once would run first

    def run(self, graph: Graph, timeout_s: float = JOB_TIMEOUT_S, **extra: Any) -> ComfyJob:
        """Queue a job and wait for its end, successful or not."""
        with self.listen() as listener:
            return listener.finish(self.queue(graph, **extra), timeout_s)

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Open the websocket; queue inside, so that no event is missed."""
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.client_id}"
        connection = websocket.create_connection(address, timeout=60)
        try:
            connection.send(
                json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            )
            yield Listener(self, connection)
        finally:
            connection.close()

    def upload(
        self, image: Image.Image | bytes | Path, name: str, *, overwrite: bool = True
    ) -> str:
        """Put an image into the input folder; return the name to give to LoadImage."""
        if isinstance(image, Image.Image):
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            image = buffer.getvalue()
        elif isinstance(image, Path):
            image = image.read_bytes()
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "overwrite": str(overwrite).lower()}
        answer = json.loads(
            self.request(
                "/upload/image",
                _multipart(boundary, fields, name, image),
                f"multipart/form-data; boundary={boundary}",
            )
        )
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def image(self, reference: dict[str, str]) -> Image.Image:
        """Download an image named in a job's outputs."""
        query = urllib.parse.urlencode(reference)
        image = Image.open(io.BytesIO(self.request(f"/view?{query}")))
        image.load()
        return image


class Listener:
    """The open websocket of one client; keeps every event it has read.

    Example: ``with client.listen() as listener: job = listener.finish(client.queue(graph))``.
    """

    def __init__(self, client: ComfyClient, connection: websocket.WebSocket) -> None:
        self.events: list[Event] = []
        self._client = client
        self._connection = connection

    def until(self, is_awaited: Callable[[Event], bool], timeout_s: float = JOB_TIMEOUT_S) -> Event:
        """Read events up to the first that fits; raise TimeoutError if none comes."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._connection.settimeout(left)
            try:
                code, payload = self._connection.recv_data()
            except websocket.WebSocketTimeoutException:
                break
            event = _parse_event(code, payload)
            self.events.append(event)
            if is_awaited(event):
                return event
        raise TimeoutError(f"no such event in {timeout_s:.0f} s; last: {self.events[-3:]}")

    def finish(self, prompt_id: str, timeout_s: float = JOB_TIMEOUT_S) -> ComfyJob:
        """Wait until a job has ended, and return it."""
        start = time.monotonic()
        self.until(lambda event: _ends(event, prompt_id), timeout_s)
        seconds = time.monotonic() - start
        history = None
        while history is None:  # written just after the event
            history = self._client.history(prompt_id)
            if time.monotonic() - start > timeout_s:
                raise TimeoutError(f"job {prompt_id} never reached the history")
        events = list(self.events)
        return ComfyJob(prompt_id=prompt_id, history=history, events=events, seconds=seconds)


def _ends(event: Event, prompt_id: str) -> bool:
    kinds = ("execution_success", "execution_error", "execution_interrupted")
    return event.kind in kinds and event.data.get("prompt_id") == prompt_id


_BINARY_KINDS = {1: "preview", 2: "unencoded_preview", 3: "text", 4: "preview_with_metadata"}


def _parse_event(code: int, payload: bytes) -> Event:
    if code == websocket.ABNF.OPCODE_TEXT:
        message = json.loads(payload)
        return Event(kind=message["type"], data=message["data"])
    if code == websocket.ABNF.OPCODE_BINARY:
        kind = _BINARY_KINDS.get(int.from_bytes(payload[:4], "big"), "unknown")
        return Event(kind=kind, data=payload[4:])
    return Event(kind="closed", data={})


def _multipart(boundary: str, fields: dict[str, str], name: str, content: bytes) -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    header = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return b"".join([*parts, header.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
