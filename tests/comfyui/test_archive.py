"""The published archive, unpacked into ``custom_nodes``, runs a fill without the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support import machine
from support.client import ComfyClient
from support.edits import EditGraph
from support.fresh_environment import make_environment
from support.scripts import load_script
from support.server import EXAMPLE, ComfyServer
from support.workflows import SIZE, example_image

pytestmark = pytest.mark.slow


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """The archive's files in a folder of their own."""
    folder = tmp_path / "OneReward"
    for path in load_script("release_check").published_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(machine.ROOT / path, folder / path)
    return folder


def test_the_archive_runs_a_fill(pack: Path, tmp_path: Path):
    base = tmp_path / "comfyui"
    base.mkdir()
    server = ComfyServer(base, pack_folder=None, other_packs=(pack,))
    server.python = str(make_environment(tmp_path / "environment"))
    with server:
        client = ComfyClient(server.url)
        assert (base / "input" / "onereward_photo.png").is_file()
        blocks = {entry["name"] for entry in client.get("/global_subgraphs").values()}
        assert "Remove object (OneReward)" in blocks
        example_image().save(base / "input" / EXAMPLE)
        g = EditGraph()
        result = g.show(g.add_edit("Fill", g.add("LoadImage", image=EXAMPLE), seed=1))
        job = client.run(g.graph)
        assert job.succeeded, job.error
        assert client.image(job.images(result)[0]).size == (SIZE, SIZE)
        assert str(machine.ROOT / "nodes") not in server.log()
