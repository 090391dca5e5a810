"""Drives a headless Chromium through its debugging port."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

STORES = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s"
"""The front end's own stores by name, for what has no other handle."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REGISTRY = "https://api.comfy.org/"
"""The front end looks nodes up there, and `--disable-api-nodes` forbids it: not a page's fault."""
KEY_CODES = {"Enter": 13, "Escape": 27}
"""Their numbers in the DevTools protocol."""
START_TIMEOUT_S = 180.0
CALL_TIMEOUT_S = 180.0
POLL_INTERVAL_S = 0.1


@functools.cache
def find_chromium() -> str | None:
    """Return the path of a Chromium that runs; a stub that only points to a snap does not."""
    for name in PROGRAMS:
        program = shutil.which(name)
        if program is None:
            continue
        process = subprocess.run(
            [program, "--version"], check=False, capture_output=True, timeout=60
        )
        if process.returncode == 0:
            return program
    return None


class BrowserError(RuntimeError):
    """The page raised an exception, or the browser refused a command.

    Example: ``raise BrowserError("Page.navigate gave no answer in 60 s")``.
    """


class Browser:
    """One Chromium with one page and an empty profile; use it as a context manager.

    Example: ``with Browser(folder) as browser: browser.open_front_end(server.url)``.

    Args:
        profile: Empty folder for the browser's own files.
    """

    def __init__(self, profile: Path) -> None:
        self.console: list[str] = []
        """Errors and uncaught exceptions of the page, in order."""
        self.errors_at_load: list[str] = []
        """Those that had come when the front end was last ready."""
        self._profile = profile
        self._ids = itertools.count(1)
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        program = find_chromium()
        if program is None:
            raise BrowserError(f"no Chromium is installed (looked for {', '.join(PROGRAMS)})")
        command = [
            program,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-extensions", "--window-size=1600,1000"),
            *("--remote-debugging-port=0", "--remote-allow-origins=*"),
            f"--user-data-dir={self._profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            self._connection = websocket.create_connection(
                self._page_address(), timeout=CALL_TIMEOUT_S
            )
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and return its result."""
        call_id = next(self._ids)
        self._connection.send(json.dumps({"id": call_id, "method": method, "params": parameters}))
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline:
            message = json.loads(self._connection.recv())
            if message.get("id") == call_id:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']['message']}")
                return message["result"]
            if "method" in message:
                self._note(message)
        raise BrowserError(f"{method} gave no answer in {CALL_TIMEOUT_S:.0f} s")

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript, await it if it is a promise, and return the value as JSON would."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(_exception_text(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Poll until a JavaScript expression is true."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise BrowserError(f"still not true after {timeout_s:.0f} s: {condition}")
            time.sleep(POLL_INTERVAL_S)

    def open_front_end(self, url: str) -> None:
        """Open ComfyUI's front end and wait until it can load workflows."""
        num_errors = len(self.console)
        self.call("Page.navigate", url=url)
        self.wait_for("window.app?.graph && window.app.extensionManager && LiteGraph")
        self.wait_for("Object.keys(LiteGraph.registered_node_types).includes('OneRewardFill')")
        # The workflow that was last open, or the first one, would replace a test's own.
        self.wait_for("window.app.extensionManager.workflow?.activeWorkflow")
        self.errors_at_load = self.console[num_errors:]

    def load_workflow(self, workflow: dict[str, Any], name: str) -> None:
        """Load a workflow in the front end's format into the open page."""
        text = json.dumps(workflow)
        self.evaluate(f"window.app.loadGraphData({text}, true, true, {json.dumps(name)})")

    def export_api(self) -> dict[str, Any]:
        """Return the open workflow in API format, as the front end's own export gives it."""
        return json.loads(
            self.evaluate(
                "window.app.graphToPrompt().then(prompt => JSON.stringify(prompt.output))"
            )
        )

    def type_text(self, text: str) -> None:
        """Type into whatever has the focus."""
        for character in text:
            self._press(character, {"key": character, "text": character})

    def press(self, key: str) -> None:
        """Press and release a key that has a name, such as Enter or Escape."""
        text = {"text": "\r"} if key == "Enter" else {}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": KEY_CODES[key]}
        self._press(key, event | text)

    def _press(self, key: str, event: dict[str, Any]) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, x: float, y: float, num_clicks: int = 1) -> None:
        """Press and release the left mouse button at a place of the window, in pixels."""
        for count in range(1, num_clicks + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call(
                    "Input.dispatchMouseEvent",
                    **{"type": kind, "x": x, "y": y, "button": "left", "clickCount": count},
                )

    def resize(self, width_px: int, height_px: int, density: float = 1.0) -> None:
        """Give the page another size; ``density`` pixels are drawn per pixel of the page."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=density,
            mobile=False,
        )

    def screenshot(self, path: Path) -> None:
        """Save what the page shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _page_address(self) -> str:
        port_file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if port_file.is_file() and (lines := port_file.read_text().splitlines()):
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json") as answer:
                    pages = [page for page in json.load(answer) if page["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            time.sleep(POLL_INTERVAL_S)
        raise BrowserError(f"Chromium did not start in {START_TIMEOUT_S:.0f} s")

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self._add_error(_exception_text(parameters["exceptionDetails"]))
        elif message["method"] == "Page.javascriptDialogOpening":
            # The page asks whether to leave an unsaved workflow, and answers nothing meanwhile.
            answer = {"id": next(self._ids), "method": "Page.handleJavaScriptDialog"}
            self._connection.send(json.dumps(answer | {"params": {"accept": True}}))
        elif message["method"] == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            values = [str(a.get("value", a.get("description", ""))) for a in parameters["args"]]
            self._add_error(" ".join(values))
        elif message["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            entry = parameters["entry"]
            self._add_error(f"{entry['text']} {entry.get('url', '')}".strip())

    def _add_error(self, text: str) -> None:
        if REGISTRY not in text:
            self.console.append(text)


def _exception_text(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details["text"]
