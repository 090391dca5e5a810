"""The labelling page's routes in the real server: who may ask, and for what."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from onereward.reward.preference import PreferenceSet
from support.candidate_folders import make_candidates
from support.server import ComfyServer

PAGE = "/onereward/labelling/"
ROUTES = ("folders", "view", "answer", "undo", "image")


@pytest.fixture
def folder(comfyui: ComfyServer) -> Iterator[Path]:
    """Candidates where Generate Candidates puts them, without any labels."""
    path = comfyui.base_directory / "output" / "onereward" / "preferences" / "my kites"
    make_candidates(path, (2, 3, 1))
    yield path
    shutil.rmtree(path)


def ask(
    server: ComfyServer,
    route: str,
    values: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> tuple[int, Any, Any]:
    """Return status, JSON or bytes, and headers; answers and undo are posted."""
    url, data = f"{server.url}{PAGE}api/{route}", None
    headers = dict(headers or {})
    if route in ("answer", "undo"):
        data = json.dumps(values).encode()
        headers.setdefault("Content-Type", "application/json")
    else:
        url += f"?{urlencode(values)}"
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            body, status, fields = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        body, status, fields = error.read(), error.code, error.headers
    is_json = fields.get_content_type() == "application/json"
    return status, json.loads(body) if is_json else body, fields


def test_a_person_labels_over_the_routes(comfyui: ComfyServer, folder: Path):
    who = {"folder": "my kites", "name": "Ada"}
    status, listing, _ = ask(comfyui, "folders", who)
    row = {"folder": "my kites", "answered": 0, "questions": 8, "groups": 2}
    assert (status, row in listing["folders"]) == (200, True)
    status, view, _ = ask(comfyui, "view", who)
    question = view["question"]
    image = {"folder": "my kites", "group": question["group"], "image": "1"}
    status, body, fields = ask(comfyui, "image", image)
    assert (status, fields["Content-Type"]) == (200, "image/png")
    assert body == (folder / "images/scene-0/model/1.png").read_bytes()
    status, view, _ = ask(comfyui, "answer", who | question | {"choice": 1})
    assert (status, view["progress"]["answered"]) == (200, 1)
    (pair,) = PreferenceSet(folder).pairs()
    assert pair.judged_by == "human:Ada"
    assert pair.winner_file_name.endswith("1.png")
    status, view, _ = ask(comfyui, "undo", who)
    assert (status, view["question"], PreferenceSet(folder).pairs()) == (200, question, [])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../preferences/my kites",
            "/etc",
            "..",
            ".",
            "",
            "my kites/images",
            "a\\b",
            "my kites\0",
        ),
        *("%2e%2e", "C:\\", "con", "nowhere", "x" * 400),
    ],
)
def test_folders_are_plain_names_below_preferences(comfyui: ComfyServer, folder: Path, name: str):
    values = {"folder": name, "name": "Ada", "group": "0", "image": "0"}
    for route in ROUTES[1:]:
        status, answer, _ = ask(comfyui, route, values)
        assert status in (400, 404), (route, answer)
        assert 0 < len(answer["error"]) <= 300
        assert str(folder.parent) not in answer["error"]


@pytest.mark.parametrize("image", ["../../candidates.jsonl", "2", "-1", "labels", "%2e%2e/x.png"])
def test_images_are_given_by_index_alone(comfyui: ComfyServer, folder: Path, image: str):
    _, view, _ = ask(comfyui, "view", {"folder": "my kites", "name": "Ada"})
    values = {"folder": "my kites", "group": view["question"]["group"], "image": image}
    status, answer, _ = ask(comfyui, "image", values)
    assert (status, "there is no image" in answer["error"]) == (400, True)
    status, _, _ = ask(comfyui, "image", values | {"group": "../my kites", "image": "0"})
    assert status == 400


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
    ],
    ids=lambda headers: " ".join(map(str, *headers.items())),
)
def test_pages_of_other_sites_are_refused(
    comfyui: ComfyServer, folder: Path, route: str, headers: dict[str, str]
):
    who = {"folder": "my kites", "name": "Ada", "group": "0", "image": "0"}
    status, _, fields = ask(comfyui, route, who, headers)
    assert status == 403
    assert "Access-Control-Allow-Origin" not in fields
    assert not (folder / "labels").exists()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_forms_of_other_sites_are_refused(comfyui: ComfyServer, folder: Path, kind: str):
    who = {"folder": "my kites", "name": "Ada"}
    assert ask(comfyui, "undo", who, {"Content-Type": kind})[0] == 403


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"\xff", b'{"folder": ["my kites"]}'])
def test_what_is_no_request_is_refused(comfyui: ComfyServer, folder: Path, body: bytes):
    headers = {"Content-Type": "application/json"}
    for route in ("answer", "undo"):
        url = f"{comfyui.url}{PAGE}api/{route}"
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(url, body, headers))
        assert refusal.value.code == 400
        assert json.load(refusal.value)["error"]


@pytest.mark.parametrize(
    "name", ["../../../pyproject.toml", "..%2fonereward.js", "README", "label.py", "%2e%2e"]
)
def test_only_the_page_s_own_files_are_served(comfyui: ComfyServer, name: str):
    for page in (PAGE, f"/api{PAGE}"):
        with urllib.request.urlopen(f"{comfyui.url}{page}label.mjs") as answer:
            assert answer.headers["Content-Type"].startswith("text/javascript")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{comfyui.url}{page}{name}")
        assert refusal.value.code == 404


def test_the_front_end_does_not_load_the_page_as_an_extension(comfyui: ComfyServer):
    with urllib.request.urlopen(f"{comfyui.url}/extensions") as answer:
        paths = [path for path in json.load(answer) if "a-copy-of-the-pack" in path]
    assert any(path.endswith("label_candidates.js") for path in paths)
    assert not [path for path in paths if "/labelling/" in path]
