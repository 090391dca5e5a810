"""Asks an OpenAI-compatible server: several questions at once, again if it is busy, never for long.

Requests run in threads of their own, so that whoever waits for them can cancel within a moment.
"""

from __future__ import annotations

import itertools
import json
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...fill.io.json_text import parse_object, shorten
from ..judge import JudgeError
from .remote_config import RemoteConfig, check_url, read_key

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

POLL_S = 0.1
"""Seconds between two looks at whether the user has cancelled."""
CONNECT_S = 10.0
MAX_ANSWER_BYTES = 8 << 20
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0
"""Pause before the second try, which doubles for each further one, and the longest."""
MAX_WAIT_S = 300.0
"""Longest pause that a server may ask for with ``Retry-After``."""
BUSY = (408, 425, 429, 500, 502, 503, 504, 529)
_CHUNK_BYTES = 64
"""Few, so that an answer that trickles in is noticed."""
Body = Mapping[str, Any]


class ServerBusy(Exception):  # noqa: N818 - asked again, and only then an error
    """The server may answer later. Example: ``raise ServerBusy("is not reachable")``."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        """What the server asks for, in seconds; None: nothing."""


class ChatClient:
    """Sends chat completions. Example: ``ChatClient(config, poll).ask_all([body])[0]["choices"]``.

    Args:
        config: The server.
        poll: Called while waiting; raises if the user has cancelled.
    """

    def __init__(self, config: RemoteConfig, poll: Callable[[], None]) -> None:
        self._config, self._poll = config, poll
        self._host = check_url(config.base_url).netloc
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"
        self._has_answered = False  # until then nobody may be there, and waiting is of no use

    def ask_all(self, bodies: Sequence[Body]) -> list[dict[str, Any]]:
        """Return the server's answers, in the order of the questions.

        Raises:
            JudgeError: The server cannot be asked; one sentence, without the key.
            ValueError: There is no key, or the server may not get it.
        """
        read_key(self._config)
        # Threads take questions from one queue and put what came of them into another.
        stop, questions = threading.Event(), queue.SimpleQueue[tuple[int, Body]]()
        results = queue.SimpleQueue[tuple[int, dict[str, Any] | Exception]]()
        for question in enumerate(bodies):
            questions.put(question)
        for _ in range(min(self._config.concurrency, len(bodies))):
            threading.Thread(
                target=self._work, args=(questions, results, stop), daemon=True
            ).start()
        # The first failure ends all of them, as does cancel.
        answers: dict[int, dict[str, Any]] = {}
        try:
            while len(answers) < len(bodies):
                self._poll()
                try:
                    index, answer = results.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if isinstance(answer, Exception):
                    raise answer
                answers[index] = answer
        finally:
            stop.set()
        return [answers[index] for index in range(len(bodies))]

    def _work(
        self,
        questions: queue.SimpleQueue[tuple[int, Body]],
        results: queue.SimpleQueue[tuple[int, dict[str, Any] | Exception]],
        stop: threading.Event,
    ) -> None:
        import requests

        with requests.Session() as session:
            while not stop.is_set():
                try:
                    index, body = questions.get_nowait()
                except queue.Empty:
                    return
                try:
                    results.put((index, self._ask(session, body, stop)))
                except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                    results.put((index, error))

    def _ask(self, session: Session, body: Body, stop: threading.Event) -> dict[str, Any]:
        for attempt in itertools.count():
            try:
                return self._post(session, body, stop)
            except ServerBusy as failure:
                wait_s = failure.wait_s
                if attempt == self._config.retries:
                    times = "once" if attempt == 0 else f"{attempt + 1} times"
                    raise self._error(f"{failure} (tried {times}); see that it runs") from None
            if wait_s is None:
                wait_s = min(FIRST_PAUSE_S * 2**attempt, MAX_PAUSE_S) * random.uniform(0.5, 1)
            elif wait_s > MAX_WAIT_S:
                raise self._error(f"asks to wait {math.ceil(wait_s)} s; run again later")
            if stop.wait(wait_s):
                break
        raise JudgeError("cancelled")

    def _post(self, session: Session, body: Body, stop: threading.Event) -> dict[str, Any]:
        """Ask once. Raises JudgeError for what stays wrong, else ServerBusy."""
        import requests

        timeout = self._config.timeout
        deadline = time.monotonic() + timeout
        slow = f"did not answer within {timeout:g} s"
        try:
            with session.post(
                self._url,
                data=json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
                auth=self._authorise,  # also keeps a .netrc out
                timeout=(min(CONNECT_S, timeout), timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                self._has_answered = True
                data = bytearray()
                for chunk in response.iter_content(_CHUNK_BYTES):
                    data += chunk
                    if stop.is_set():
                        raise JudgeError("cancelled")
                    if time.monotonic() > deadline:
                        raise ServerBusy(slow)
                    if len(data) > MAX_ANSWER_BYTES:
                        raise self._error("sends more than an answer has; is it the right address?")
                return self._parse(response, data.decode("utf-8", "replace"))
        except requests.Timeout:
            raise ServerBusy(slow) from None
        except requests.exceptions.SSLError:
            raise self._error("has no valid certificate; look at base_url") from None
        except requests.RequestException as error:
            if "Read timed out" in str(error):
                raise ServerBusy(slow) from None
            if self._has_answered:
                raise ServerBusy("is not reachable") from None
            raise self._error("is not reachable; see that it runs, and at base_url") from None

    def _authorise(self, request: PreparedRequest) -> PreparedRequest:
        if key := read_key(self._config):
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    def _parse(self, response: Response, text: str) -> dict[str, Any]:
        status = response.status_code
        if status in BUSY:
            raise ServerBusy(f"is busy or fails (HTTP {status})", _retry_after(response))
        if 300 <= status < 400:
            raise self._error("sends elsewhere; give the address that it answers at as base_url")
        if status in (401, 403):
            name = self._config.key_variable or "which key_variable names none"
            raise self._error(f"refuses the key (HTTP {status}); look at {name}")
        if status != 200:
            reason = self._reason(text)
            raise self._error(f"refuses the question (HTTP {status}{reason}); look at base_url, "
                              "model and the server's log")  # fmt: skip
        try:
            return parse_object(text)
        except ValueError as error:
            raise self._error(
                f"answers, but not as this API does: {error}; base_url usually ends with /v1"
            ) from None

    def _reason(self, text: str) -> str:
        """Return what a server says is wrong, without the key."""
        try:
            values = parse_object(text)
        except ValueError:
            return ""
        for part in (values.get("error"), values):
            message = part.get("message") or part.get("detail") if isinstance(part, dict) else part
            if isinstance(message, str) and message:
                key = read_key(self._config)
                return f": {shorten(message.replace(key, '[key]') if key else message, 120)}"
        return ""

    def _error(self, what: str) -> JudgeError:
        return JudgeError(shorten(f"the judge's server {shorten(self._host, 60)} {what}"))


def _retry_after(response: Response) -> float | None:
    """Return the seconds of a header ``Retry-After``, a number or a date; None without."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    value = response.headers.get("Retry-After")
    try:
        return None if value is None else Retry().parse_retry_after(value)
    except InvalidHeader:
        return None
