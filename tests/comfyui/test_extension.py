"""The entry point, run as ComfyUI runs it but in a process of its own.

ComfyUI reports its failure in one line; here the whole traceback shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support import machine

LIST_NODES = """
import asyncio, importlib.util, json, sys
pack, tree, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]
sys.path.insert(0, tree)
import comfy.options
comfy.options.enable_args_parsing()
import utils.install_util  # first, as in main.py: a library has a module `utils`, too
name = base + "/custom_nodes/some-pack_x_v1"
spec = importlib.util.spec_from_file_location(
    name, pack + "/__init__.py", submodule_search_locations=[pack]
)
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
nodes = asyncio.run(extension.get_node_list())
assert all(node.__module__.startswith(name) for node in nodes)
heavy = sorted({"diffusers", "peft"} & set(sys.modules))  # ComfyUI imports transformers itself
schemas = [node.GET_SCHEMA() for node in nodes]
print(json.dumps({"ids": [schema.node_id for schema in schemas], "heavy": heavy}))
"""


def test_entry_point_lists_every_node_without_heavy_imports(tmp_path: Path):
    pack, tree = str(machine.ROOT), str(machine.comfyui_path())
    process = subprocess.run(
        [sys.executable, "-c", LIST_NODES, pack, tree, str(tmp_path)],
        cwd=tmp_path,
        env=os.environ,
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    listing = json.loads(process.stdout.splitlines()[-1])
    assert listing["heavy"] == []
    assert len(set(listing["ids"])) == len(listing["ids"])
    assert all(node_id.startswith("OneReward") for node_id in listing["ids"])
    documented = {page.stem for page in (machine.ROOT / "web" / "docs").glob("*.md")}
    assert documented == set(listing["ids"])
