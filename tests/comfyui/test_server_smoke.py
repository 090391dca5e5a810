"""The plugin loads in a real server, and the harness itself works."""

from __future__ import annotations

import io
import re
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from support.client import ApiError, ComfyClient
from support.graph import GraphBuilder
from support.promises import PROMISED
from support.server import PACK_FOLDER, TEST_PACK, ComfyServer


def test_every_pack_is_imported(comfyui: ComfyServer):
    for name in (PACK_FOLDER, TEST_PACK.name):
        line = re.search(rf"^.* seconds(.*): .*/{re.escape(name)}$", comfyui.log(), re.MULTILINE)
        assert line, f"the log lists no import of {name}:\n{comfyui.log_tail()}"
        assert "IMPORT FAILED" not in line[1]


def test_plugin_registers_its_nodes(client: ComfyClient):
    nodes = {name for name in client.object_info() if name.startswith("OneReward")}
    assert nodes == set(PROMISED)


def test_templates_are_served(client: ComfyClient):
    assert client.get("/workflow_templates").get(PACK_FOLDER), "the template browser lists ours"
    for name in client.get("/workflow_templates")[PACK_FOLDER]:
        template = client.get(f"/api/workflow_templates/{PACK_FOLDER}/{quote(name)}.json")
        assert template["nodes"]
        thumbnail = client.request(f"/api/workflow_templates/{PACK_FOLDER}/{quote(name)}.jpg")
        assert min(Image.open(io.BytesIO(thumbnail)).size) > 0


def test_every_node_has_a_help_page(client: ComfyClient):
    for name in (n for n in client.object_info() if n.startswith("OneReward")):
        page = client.request(f"/extensions/{PACK_FOLDER}/docs/{name}.md").decode()
        assert page.strip(), f"the help page of {name} is empty"


def test_uploaded_image_comes_back_unchanged(client: ComfyClient):
    source = Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(48, 32, 3))
    g = GraphBuilder()
    image = g.add("LoadImage", image=client.upload(source, "source.png"))
    g.add("PreviewImage", images=image)
    job = client.run(g.graph)
    assert job.succeeded, job.error
    (reference,) = job.images()
    assert np.array_equal(np.asarray(client.image(reference)), np.asarray(source))


def test_same_graph_again_is_cached(client: ComfyClient):
    g = GraphBuilder()
    image = g.add("EmptyImage", width=16, height=16, batch_size=1, color=7)
    g.add("PreviewImage", images=image)
    assert set(client.run(g.graph).executed_nodes) == {"1", "2"}
    assert client.run(g.graph).cached_nodes == {"1", "2"}


def test_refused_job_says_what_is_missing(client: ComfyClient):
    g = GraphBuilder()
    g.add("PreviewImage", images=g.add("LoadImage", image="no-such-file.png"))
    with pytest.raises(ApiError) as refused:
        client.queue(g.graph)
    assert refused.value.status == 400
    assert any("no-such-file.png" in message for message in refused.value.messages())


def test_failing_job_names_its_node_and_leaves_the_server_alive(client: ComfyClient):
    g = GraphBuilder()
    text = g.add("RegexReplace", string="a", regex_pattern="(", replace="b")
    g.add("PreviewAny", source=text)
    job = client.run(g.graph)
    assert not job.succeeded
    assert job.failed_node == text[0]
    assert "unterminated subpattern" in (job.error or "")
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}


def test_interrupting_an_unknown_job_changes_nothing(client: ComfyClient):
    client.interrupt("no-such-job")
    g = GraphBuilder()
    g.add("PreviewImage", images=g.add("EmptyImage", width=8, height=8, batch_size=1, color=1))
    assert client.run(g.graph).succeeded
