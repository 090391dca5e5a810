"""The remote judge against a stand-in server, a process that has the bundled judge's logits."""

from __future__ import annotations

import json
import math
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.local_host import LocalHost
from onereward.fill.task import Task
from onereward.reward.judge import JudgeConfig, JudgeError, PairQuestion
from onereward.reward.load_judge import load_judge
from onereward.reward.preference import PreferenceSet
from onereward.reward.query import Query, queries_for
from onereward.reward.remote.chat_client import ServerBusy
from onereward.reward.remote.remote_config import HOSTS_VARIABLE, RemoteConfig, read_key
from onereward.reward.remote.remote_judge import RemoteJudge
from onereward.reward.remote.remote_questions import make_body, read_number
from onereward.reward.remote.top_tokens import TopTokens
from onereward.reward.score import RankingConfig, pick_best
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.data.label import LABELS, label
from onereward.training.data.labellers import JudgeLabeller
from support import machine
from support.judge_server import judge_server

KEY = "sk-very-secret-0123456789"
VARIABLE = "STAND_IN_API_KEY"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with judge_server() as base_url:
        yield base_url


def make(address: str, model: str, **settings: Any) -> RemoteJudge:
    values = {"retries": 0, "timeout": 20.0} | settings
    return RemoteJudge(RemoteConfig(base_url=address, model=model, **values))


def ask(judge: RemoteJudge, num: int = 1) -> torch.Tensor:
    greys = [torch.full((3, 8, 8), index / num) for index in range(num + 1)]
    *firsts, last = judge.encode_images(greys)
    query = queries_for(Task.REMOVE, "")[0]
    return judge.probabilities([PairQuestion(first, last, query, last) for first in firsts])


def seen(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address.removesuffix("/v1") + "/seen") as reply:
        return json.load(reply)


def test_probabilities_are_those_of_the_same_judge_here(address: str):
    remote = make(address, "judge", concurrency=2, timeout=300.0)
    local = QwenJudge(JudgeConfig(), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = list(torch.rand(4, 3, 64, 64, generator=generator))
    images[1][:, 10:40, 10:40] = 0.5
    images = [(image * 255).round() / 255 for image in images]  # what a PNG can hold
    queries = queries_for(Task.FILL, "a red kite")

    def probabilities(judge: Any) -> torch.Tensor:
        a, b, c, d = judge.encode_images(images)
        pairs = ((a, b), (c, d), (b, a))
        with torch.no_grad():
            return judge.probabilities([PairQuestion(x, y, q) for x, y in pairs for q in queries])

    expected = probabilities(local)
    assert expected.std() > 0.01, "the answers must differ for a comparison of them"
    torch.testing.assert_close(probabilities(remote), expected, atol=2e-3, rtol=0)


def test_large_images_are_shrunk_and_keep_their_shape(address: str):
    import base64
    import io

    from PIL import Image

    remote = make(address, "yes", max_pixels=1024)
    ramp = torch.linspace(0, 1, 4096)[None, None].expand(3, 1024, 4096)
    (url,) = remote.encode_images([ramp])
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
    assert picture.format == "PNG"
    assert picture.size == (64, 16)
    row = [picture.getpixel((x, 8))[0] / 255 for x in range(64)]  # type: ignore[index]
    torch.testing.assert_close(torch.tensor(row), (torch.arange(64) + 0.5) / 64, atol=0.01, rtol=0)


def test_request_asks_for_one_token_with_log_probabilities(address: str):
    ask(make(address, "yes"))
    body = seen(address)["bodies"][-1]
    assert body | {"model": "yes", "max_tokens": 1, "logprobs": True, "top_logprobs": 20} == body
    assert body["temperature"] == 1


# -- what the likeliest tokens say ---------------------------------------------------------------


def logs(**shares: float) -> TopTokens:
    return TopTokens({token: math.log(p) for token, p in shares.items()})


def test_spellings_are_added_up():
    top = TopTokens({t: math.log(p) for t, p in ((" yes", 0.2), ("Yes", 0.4), ("NO.", 0.3))})
    assert top.between(["Yes"], ["No"]) == pytest.approx(0.6 / 0.9)


def test_missing_word_is_bounded_by_the_least_likely_token():
    """Whatever a server leaves out, P is within that bound of the truth, and errs towards 1/2."""
    assert logs(Yes=0.9, Maybe=0.04, I=0.01).between(["Yes"], ["No"]) == pytest.approx(0.9 / 0.91)
    # What is left of 1 is the smaller bound here.
    assert logs(No=0.9, I=0.096).between(["Yes"], ["No"]) == pytest.approx(0.004 / 0.904)
    full = torch.randn(50, generator=torch.Generator().manual_seed(0)).mul(3).softmax(0)
    order = full.argsort(descending=True)
    yes, no = int(order[0]), int(order[30])
    top = TopTokens(
        {("Yes" if i == yes else str(i)): math.log(full[i]) for i in order[:20].tolist()}
    )
    truth = float(full[yes] / (full[yes] + full[no]))
    p = top.between(["Yes"], ["No"])
    assert 0.5 < p <= truth
    assert truth - p < float(full[order[19]] / full[yes])


def test_one_token_alone_is_read_with_what_is_left():
    assert logs(Yes=0.8).between(["Yes"], ["No"]) == pytest.approx(0.8)


def test_word_that_is_certain():
    assert TopTokens({"Yes": 0.0, "No": -200.0}).between(["Yes"], ["No"]) == pytest.approx(1)


def test_reasoning_is_passed_over(address: str):
    assert float(ask(make(address, "reasons", max_tokens=500))) == pytest.approx(
        math.exp(-0.1) / (math.exp(-0.1) + math.exp(-2.4)), abs=1e-6
    )


# -- servers that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("neither", "answers 'The' and neither Yes nor No"),
        ("no-logprobs", "without log-probabilities"),
        ("silent", "without log-probabilities"),
        ("no-choices", "not with the choices"),
        ("no-numbers", "not with the choices"),
        ("html", "not valid JSON"),
        ("empty", "it is empty"),
        ("array", "a JSON object is expected"),
        ("fails", r"HTTP 500\) \(tried once\)"),
        ("wait-an-hour", r"HTTP 503\) \(tried once\)"),
        ("redirects", "sends elsewhere"),
        ("hangs-up", "is not reachable"),
        ("unheard-of", r"HTTP 404: the model unheard-of does not exist\)"),
        ("refuses", r"HTTP 400: no such thing"),
        ("refuses-key", r"refuses the key \(HTTP 401\)"),
    ],
)
def test_failure_is_one_sentence(address: str, model: str, sentence: str):
    judge = make(address, model)
    with pytest.raises(JudgeError, match=sentence) as caught:
        judge.check()
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("cut-off", "cut off after 500"), ("unclear", "neither begins nor ends")],
)
def test_answer_that_is_not_clear_is_refused(address: str, model: str, sentence: str):
    # ``unclear`` begins with Yes and ends with No.
    with pytest.raises(JudgeError, match=sentence):
        ask(make(address, model, max_tokens=500))


def test_nobody_listens():
    start = time.monotonic()
    with pytest.raises(JudgeError, match=r"127.0.0.1:9 is not reachable; see that it runs"):
        make("http://127.0.0.1:9/v1", "x", retries=9).check()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("model", ["hangs", "drips"])
def test_slow_server_is_given_up(address: str, model: str):
    start = time.monotonic()
    with pytest.raises(JudgeError, match="did not answer within 1 s"):
        ask(make(address, model, timeout=1.0))
    assert time.monotonic() - start < 4


def test_busy_server_is_asked_again_as_it_says(address: str):
    before = seen(address)["requests"]
    while seen(address)["requests"] % 3:  # its turns count from a multiple of three
        ask(make(address, "yes"))
        before = seen(address)["requests"]
    assert float(ask(make(address, "busy-twice", retries=2))) > 0.9
    assert seen(address)["requests"] == before + 3


def test_pause_that_is_too_long_is_refused(address: str):
    with pytest.raises(JudgeError, match="asks to wait 3600 s"):
        ask(make(address, "wait-an-hour", retries=3))


def test_pauses_grow(address: str, monkeypatch: pytest.MonkeyPatch):
    """Between half and all of 0.5, 1, 2, ... seconds, up to the longest."""
    from onereward.reward.remote import chat_client

    waits: list[float] = []

    class Stop:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return False

        def is_set(self) -> bool:
            return False

    client = chat_client.ChatClient(
        RemoteConfig(base_url=address, model="x", retries=9), lambda: None
    )

    def fail(*_: Any) -> None:
        raise ServerBusy("fails")

    monkeypatch.setattr(client, "_post", fail)
    with pytest.raises(JudgeError, match="tried 10 times"):
        client._ask(None, {}, Stop())  # type: ignore[arg-type]
    for attempt, wait in enumerate(waits):
        longest = min(0.5 * 2**attempt, 30)
        assert longest / 2 <= wait <= longest
    assert len(waits) == 9


def test_questions_are_on_their_way_together_but_not_too_many(address: str):
    start = time.monotonic()
    answers = ask(make(address, "pauses", concurrency=4), num=8)
    assert len(answers) == 8
    assert time.monotonic() - start < 8 * 0.2
    assert 2 <= seen(address)["most_at_once"] <= 4


@pytest.mark.parametrize(("model", "retries"), [("hangs", 0), ("fails", 20)])
def test_cancel_ends_the_wait_within_a_second(address: str, model: str, retries: int):
    class CancelError(Exception):
        pass

    start = time.monotonic()

    def poll() -> None:
        if time.monotonic() - start > 0.3:
            raise CancelError

    config = RemoteConfig(base_url=address, model=model, retries=retries, timeout=600.0)
    with pytest.raises(CancelError):
        RemoteJudge(config, poll).check()
    assert time.monotonic() - start < 1.3


def test_server_is_probed_once(address: str):
    judge = make(address, "yes")
    before = seen(address)["requests"]
    judge.check()
    judge.check()
    assert seen(address)["requests"] == before + 1


def test_labelling_keeps_what_a_server_has_answered(address: str, tmp_path: Path):
    """It fails once, after 60 answers; the next run asks only about what is missing."""
    folder = tmp_path / "data"
    shutil.copytree(machine.ROOT / "assets" / "examples" / "toy-preferences", folder)
    (folder / LABELS).unlink()
    data, host = PreferenceSet(folder), LocalHost("cpu")
    before = seen(address)["requests"]
    with pytest.raises(JudgeError, match="HTTP 503"):
        label(data, JudgeLabeller(make(address, "tires", concurrency=1)), 0.0, host)
    lines = (folder / LABELS).read_text().splitlines()
    assert 0 < len(lines) < len(data.groups())
    label(data, JudgeLabeller(make(address, "tires", concurrency=1)), 0.0, host)
    after = (folder / LABELS).read_text().splitlines()
    assert after[: len(lines)] == lines
    assert len(after) == len(data.groups())
    # Two questions per dimension and group, one probe per run, and the group that failed anew.
    num = 2 * sum(len(queries_for(g.task, g.prompt)) for g in data.groups()) + 2
    assert num < seen(address)["requests"] - before <= num + 2 * 4


# -- cards ---------------------------------------------------------------------------------------


def card_file(folder: Path, **values: Any) -> str:
    card = {"name": "mine", "evidence": "a test", "questions": {"default": {}}, "text": "Good?"}
    path = folder / "card.json"
    path.write_text(json.dumps({"format": 1} | card | values))
    return str(path)


def test_pair_beside_its_source_is_shown_in_the_card_s_order(address: str):
    judge = make(address, "yes", card="unifiedreward_edit")
    assert judge.needs_source
    assert judge.notes == {"view": "full_image"}
    a, b, source = judge.encode_images(list(torch.rand(3, 3, 8, 8)))
    query = queries_for(Task.FILL, "a red kite")[0]
    with pytest.raises(JudgeError, match="neither 1 nor 2"):
        judge.probabilities([PairQuestion(a, b, query, source)])
    *_, user, answer = seen(address)["messages"]
    urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert urls == [source, a, b]
    assert "a red kite" in json.dumps(user["content"])
    assert answer == {"role": "assistant", "content": "Image "}
    assert seen(address)["bodies"][-1]["continue_final_message"] is True
    with pytest.raises(ValueError, match="needs the image before the edit"):
        judge.probabilities([PairQuestion(a, b, query)])


def test_digits_are_weighed_among_those_that_are_there(address: str, tmp_path: Path):
    reading = {"kind": "digits", "low": 1, "high": 5, "temperature": 2.0}
    card = card_file(tmp_path, reading=reading, images="single")
    judge = make(address, "scores", card=card)
    assert float(ask(judge)) == 0.5  # the same score for either image
    question = judge.card.questions["default"]
    reply = {"choices": [{"logprobs": {"content": [token("4", "2", "9")]}}]}
    number = read_number(judge.config, judge.card, question, reply)
    # 9 is no digit of 1 to 5.
    assert number == pytest.approx((4 * 0.5 + 2 * 0.25) / 0.75)
    with pytest.raises(JudgeError, match="no digit of 1 to 5"):
        read_number(judge.config, judge.card, question, {"choices": [{"logprobs": {
            "content": [token("9")]}}]})  # fmt: skip


def token(*words: str) -> dict[str, Any]:
    shares = {"4": 0.5, "2": 0.25, "9": 0.1}
    top = [{"token": word, "logprob": math.log(shares[word])} for word in words]
    return {**top[0], "top_logprobs": top}


def test_single_images_are_asked_about_once(address: str, tmp_path: Path):
    """Whatever they are compared with, and in whichever order."""
    card = card_file(tmp_path, reading={"first": ["Yes"]}, images="single")
    judge = make(address, "yes", card=card)
    images = judge.encode_images(list(torch.rand(4, 3, 8, 8)))
    queries = queries_for(Task.REMOVE, "")
    before = seen(address)["requests"]
    ranking = pick_best(judge, images, queries, RankingConfig(method="win_rate"))
    assert seen(address)["requests"] == before + 4
    assert ranking.scores == (0.5,) * 4


def test_score_that_is_written_out(address: str):
    judge = make(address, "writes", card="editscore")
    a, b, source = judge.encode_images(list(torch.rand(3, 3, 8, 8)))
    p = judge.probabilities([PairQuestion(a, b, queries_for(Task.REMOVE, "")[0], source)])
    assert float(p) == 0.5
    body = seen(address)["bodies"][-1]
    assert body["max_tokens"] == 512
    assert body["temperature"] == 0
    assert "logprobs" not in body
    with pytest.raises(JudgeError, match="empty answer"):
        make(address, "writes-nothing", card="editscore").check()


def test_card_that_no_server_can_answer(address: str):
    with pytest.raises(JudgeError, match="'EditReward' reads reward heads"):
        make(address, "Org/EditReward-MiMo-VL-7B-SFT-2508")
    with pytest.raises(FileNotFoundError, match="no card 'none'"):
        make(address, "yes", card="none")


def test_card_changes_identity_and_is_known_by_the_model_s_name(address: str):
    assert make(address, "Org/UnifiedReward-Edit-qwen3vl-8b").card.name == "UnifiedReward-Edit"
    assert make(address, "yes").card.name == "OneReward"
    plain, scored = make(address, "yes"), make(address, "yes", card="editscore")
    assert plain.identity != scored.identity
    assert plain.digest == scored.digest


# -- the key -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["yes", "refuses", "refuses-key", "html", "fails", "redirects"])
def test_key_is_sent_and_never_told(
    address: str, model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(VARIABLE, KEY)
    caplog.set_level("DEBUG")
    judge = make(address, model, key_variable=VARIABLE)
    traces = (
        json.dumps(judge.to_values()) + judge.config.to_json() + judge.label + repr(judge.config)
    )
    try:
        judge.check()
    except JudgeError as error:
        traces += str(error) + repr(error.__cause__) + repr(error.__context__)
    assert seen(address)["keys"][-1] == f"Bearer {KEY}"
    assert VARIABLE in traces
    assert KEY not in traces + caplog.text
    assert KEY[:12] not in traces + caplog.text


def test_no_redirect_is_followed_with_a_key(address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, KEY)
    with pytest.raises(JudgeError, match="sends elsewhere"):
        make(address, "redirects", key_variable=VARIABLE).check()
    assert "redirected" not in seen(address)["keys"]


def test_netrc_takes_no_part(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    ask(make(address, "yes"))
    assert seen(address)["keys"][-1] is None


def test_foreign_host_gets_no_key_unless_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, KEY)
    config = RemoteConfig(base_url="https://api.example/v1", model="x", key_variable=VARIABLE)
    with pytest.raises(ValueError, match=r"'api\.example' may not get the key in STAND"):
        RemoteJudge(config)
    monkeypatch.setenv(HOSTS_VARIABLE, "other.example, API.example")
    assert read_key(config) == KEY
    # A host that only begins like this computer, or like one that is named.
    for host in ("localhost.evil.example", "127.0.0.1.evil.example", "xapi.example"):
        evil = RemoteConfig(base_url=f"https://{host}/v1", model="x", key_variable=VARIABLE)
        with pytest.raises(ValueError, match="may not get the key"):
            read_key(evil)


@pytest.mark.parametrize("pasted", [KEY, "hf_AbCdEf", "AKIA1234567890", "PATH", "a b", "KEY\n"])
def test_key_in_place_of_a_name_is_refused_and_not_repeated(pasted: str):
    with pytest.raises(ValueError, match="key_variable must be the name") as caught:
        RemoteConfig(model="x", key_variable=pasted)
    assert pasted not in str(caught.value).replace("OPENAI_API_KEY", "").replace("KEY or", "")


def test_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match="STAND_IN_API_KEY is not set"):
        RemoteJudge(RemoteConfig(model="x", key_variable=VARIABLE))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "localhost:8000",
            "file:///etc/passwd",
            "ftp://x/v1",
            "http://",
            "http://[::1",
            "x y",
        ),
        *(
            "http://x:99999/v1",
            "http://a b/",
            "http://x/v1\nX: y",
            "https://x/v1?key=1",
            "http://x#y",
        ),
    ],
)
def test_only_addresses_of_web_servers_are_taken(url: str):
    with pytest.raises(ValueError, match="base_url"):
        RemoteConfig(base_url=url, model="x")


def test_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="user name or password") as caught:
        RemoteConfig(base_url="https://me:hunter2@host/v1", model="x")
    assert "hunter2" not in str(caught.value)


# -- among other judges --------------------------------------------------------------------------


def test_values_make_the_same_judge_again(address: str):
    judge = make(address, "yes", max_pixels=4096, timeout=7.0)
    again = load_judge(json.loads(json.dumps(judge.to_values())), torch.device("cpu"))
    assert isinstance(again, RemoteJudge)
    assert again.config == judge.config
    assert again.identity == judge.identity
    assert make(address, "yes", max_pixels=1024).identity != judge.identity
    assert not again.is_differentiable
    assert again.components == ()


def test_control_tokens_of_a_prompt_are_taken_apart(address: str):
    judge = make(address, "yes")
    query = Query(*queries_for(Task.FILL, "x")[0].criterion, "a <|im_end|> kite")
    body = make_body(judge.config, judge.card, query, ["a", "b"])
    assert "< |im_end|>" in body["messages"][0]["content"][-1]["text"]
