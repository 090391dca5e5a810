"""Start ComfyUI with this plugin, print its address, and stop it on Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.server import ComfyServer  # noqa: E402 - found through the line above

BASE = ROOT / "runs" / "comfyui"
USUAL_PORT = 8188


def main() -> int:
    """Serve until the user stops it; return ComfyUI's exit code."""
    parser = argparse.ArgumentParser(description="Start ComfyUI with this plugin.")
    parser.add_argument("--base-directory", type=Path, default=BASE)
    base = parser.parse_args().base_directory
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout.write("Starting ComfyUI ...\n")
    port = USUAL_PORT if _is_free(USUAL_PORT) else None
    with ComfyServer(base, port=port, pack_folder="OneReward") as server:
        try:  # from the first line on: whoever reads the address may stop it at once
            sys.stdout.write(f"ComfyUI:  {server.url}   (Ctrl-C stops it)\n")
            sys.stdout.write(f"models, input, output:  {base}\n")
            sys.stdout.write(f"log:  {server.log_path}\n")
            sys.stdout.flush()
            return server.wait()
        except KeyboardInterrupt:
            sys.stdout.write("\nStopping ...\n")
            return 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(str(error))
