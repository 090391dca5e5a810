"""Starts and stops a real headless ComfyUI that loads only this plugin."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from support import machine

PACK_FOLDER = "a-copy-of-the-pack"
"""The pack's name under custom_nodes: nothing may depend on the repository's own folder name."""

TEST_PACK = Path(__file__).resolve().parent / "test_pack"
"""Nodes that make faulty input."""

EXAMPLE = "example.png"
"""The image that ComfyUI ships in its input folder, and that templates start with."""

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.1


class ComfyServer:
    """One ComfyUI process with its own base directory; use it as a context manager.

    Example: ``with ComfyServer(tmp_path) as server: ComfyClient(server.url).run(graph)``.

    Args:
        base_directory: Empty folder for models, input, output and user data.
        port: Port to listen on; a free one if None.
        pack_folder: The plugin's name under ``custom_nodes``; None: ComfyUI without it.
        other_packs: Folders of further packs to load, under their own names.
        extra_arguments: Further arguments of ComfyUI's ``main.py``.
        spins: Whether threads that wait keep their core, as in a process that nobody set up.
            Spinning threads slow a small model ten times on cores that others use too.
    """

    def __init__(
        self,
        base_directory: Path,
        *,
        port: int | None = None,
        pack_folder: str | None = PACK_FOLDER,
        other_packs: tuple[Path, ...] = (),
        extra_arguments: tuple[str, ...] = (),
        spins: bool = False,
    ) -> None:
        self.base_directory = base_directory
        self.python = sys.executable
        """What ComfyUI runs with."""
        self.port = port or _free_port()
        self.log_path = base_directory / "comfyui.log"
        self._packs = {path.name: path for path in other_packs}
        if pack_folder is not None:
            self._packs[pack_folder] = machine.ROOT
        self._extra_arguments = extra_arguments
        self._spins = spins
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and return once it answers; raise RuntimeError if it never does."""
        self._prepare_base_directory()
        tree = machine.comfyui_path()
        if not (tree / "main.py").is_file():
            raise RuntimeError(f"no ComfyUI in {tree}; run `make setup` or set COMFYUI_PATH")
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job
            signal.signal(signal.SIGINT, signal.default_int_handler)  # else `stop` is not heard
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [self.python, str(tree / "main.py"), *self._arguments()],
                cwd=tree,
                env=_environment(self._spins),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int | None:
        """Stop the process as Ctrl-C would and return its exit code; kill it if it hangs."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait(STOP_TIMEOUT_S)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Block until the process ends by itself."""
        assert self._process is not None, "the server was started"
        return self._process.wait()

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, num_lines: int = 40) -> str:
        return "\n".join(self.log().splitlines()[-num_lines:])

    def _prepare_base_directory(self) -> None:
        base = self.base_directory
        for name in ("custom_nodes", "input", "output", "models", "user/default"):
            (base / name).mkdir(parents=True, exist_ok=True)
        for name, folder in self._packs.items():
            pack = base / "custom_nodes" / name
            if not pack.is_symlink():
                pack.symlink_to(folder, target_is_directory=True)
        example, offered = base / "input" / EXAMPLE, machine.comfyui_path() / "input" / EXAMPLE
        if not example.exists() and offered.is_file():
            shutil.copyfile(offered, example)
        settings = base / "user" / "default" / "comfy.settings.json"
        if not settings.exists():  # without it the first-run dialog covers the front end
            settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}), encoding="utf-8")

    def _arguments(self) -> list[str]:
        arguments = [
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--base-directory", str(self.base_directory)),
            *("--database-url", "sqlite:///:memory:"),
            *("--disable-api-nodes", "--disable-auto-launch", "--dont-print-server"),
            "--disable-all-custom-nodes",
            *self._extra_arguments,
        ]
        if self._packs:
            arguments += ["--whitelist-custom-nodes", *self._packs]
        if (front_end := machine.front_end_path()) is not None:
            arguments += ["--front-end-root", str(front_end)]
        return arguments if machine.has_gpu() else ["--cpu", *arguments]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if not self.is_running():
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                limit = f"{START_TIMEOUT_S:.0f} s"
                raise RuntimeError(f"ComfyUI did not answer in {limit}:\n{self.log_tail()}")
            time.sleep(POLL_INTERVAL_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _environment(spins: bool) -> dict[str, str]:
    """Return this process's environment without its import path and without the model hub."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if not spins:
        environment.setdefault("OMP_WAIT_POLICY", "passive")
    return environment | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
