from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import mobilenets
from mobilenets.checkpoint import Checkpoint, load, save
from mobilenets.errors import InputError
from mobilenets.serve.guard import names_for
from mobilenets.serve.limits import Limits
from mobilenets.serve.model import Answer, ServedModel, Task, open_models
from mobilenets.serve.running import bound
from tests.serve.clients import FORM, LIMITS, Live, file_header, form, noise, picture, running

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255), size=(40, 30))


def test_one_picture(live: Live, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    (expected,) = mobilenets.predict(str(colours), str(tmp_path / "red.png"), runtime="reference").to_json()
    reply = live.predict(RED)
    assert reply.status == 200
    answers = reply.json()
    assert answers["model"] == "colours"
    (item,) = answers["items"]
    assert item["predictions"] == expected["predictions"]
    assert (item["image"], item["width"], item["height"]) == ("picture", 20, 16)
    assert item["ms"] >= item["model_ms"] > 0


def test_several_pictures_of_which_one_is_none(live: Live) -> None:
    parts = ((file_header("red.png"), RED), (file_header("x.jpg"), b"no"), (file_header("blue.png"), BLUE))
    reply = live.predict(form(*parts), "?top=1&model=again", FORM)
    assert reply.status == 200
    red, broken, blue = reply.json()["items"]
    assert [each["predictions"][0]["label"] for each in (red, blue)] == ["red", "blue"]
    assert (broken["image"], broken["predictions"]) == ("x.jpg", [])
    assert broken["error"].startswith("x.jpg: not a picture")


def test_threshold_leaves_the_best(live: Live) -> None:
    grey = picture((128, 128, 128))
    every = live.predict(grey, "?top=3").json()["items"][0]["predictions"]
    assert len(every) == 3
    assert len(live.predict(grey, "?top=3&threshold=0.9").json()["items"][0]["predictions"]) == 1


def test_where_the_network_looked(live: Live, colours: Path) -> None:
    canvas = Image.new("RGB", (16, 16))
    canvas.paste((255, 0, 0), (0, 0, 8, 16))
    canvas.save(path := colours.parent.parent / "half.png")
    (item,) = live.predict(path.read_bytes(), "?explain=true").json()["items"]
    heat = item["heat"]
    assert len(heat) == load(colours).card.plan.ops[0].out[1]
    assert max(map(max, heat)) == 1.0
    assert min(row[0] for row in heat) > max(row[-1] for row in heat)
    assert "heat" not in live.predict(RED).json()["items"][0]


def test_models(live: Live) -> None:
    document = live.ask("GET", "/v1/models").json()
    assert (document["default"], [each["name"] for each in document["models"]]) == ("colours", ["colours", "again"])
    described = live.ask("GET", "/v1/model?model=again").json()
    assert described["labels"] == ["red", "green", "blue"]
    assert described["limits"]["pixels"] == LIMITS.pixels
    assert described["explain"] is True
    assert described["report"] is False
    assert live.ask("GET", "/v1/report").json() is None
    assert live.ask("GET", "/v1/confusion").json() is None
    assert live.ask("GET", "/v1/report.html").status == 404


def test_report(colours: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(colours.read_bytes())
    (tmp_path / "report.html").write_text("<h1>how it went</h1>", encoding="utf-8")
    numbers = {"top1": 0.5, "labels": ["a", "b"], "confusion": [[1, 0], [1, 0]], "files": ["/secret/report.html"]}
    (tmp_path / "report.json").write_text(json.dumps(numbers), encoding="utf-8")
    (tmp_path / "history.json").write_text('[{"epoch": 1}]', encoding="utf-8")
    with running(tmp_path, str(path)) as live:
        report = live.ask("GET", "/v1/report").json()
        assert report["history"] == [{"epoch": 1}]
        assert "files" not in report
        assert live.ask("GET", "/v1/confusion").json() == {"labels": ["a", "b"], "confusion": [[1, 0], [1, 0]]}
        page = live.ask("GET", f"/{report['html']}")
        assert b"how it went" in page.body
        assert page.headers["content-security-policy"].startswith("sandbox")


def test_page_and_its_headers(live: Live) -> None:
    reply = live.ask("GET", "/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    for header in ("content-security-policy", "cross-origin-opener-policy", "x-content-type-options"):
        assert header in reply.headers
    assert "access-control-allow-origin" not in reply.headers
    again = live.ask("GET", "/", If_None_Match=reply.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert live.ask("GET", "/app.js").headers["content-type"].startswith("text/javascript")


def test_interface_is_described(live: Live) -> None:
    described = live.ask("GET", "/openapi.json").json()
    assert {"/v1/predict", "/v1/models", "/v1/model", "/healthz", "/readyz", "/metrics"} <= set(described["paths"])
    page = live.ask("GET", "/docs").body.decode()
    assert "POST /v1/predict" in page
    assert "http" not in page.replace("http-equiv", "")


def test_metrics(live: Live) -> None:
    live.predict(RED)
    text = live.ask("GET", "/metrics").body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    answered = families["mobilenets_requests"].samples
    assert any(each.labels == {"path": "/v1/predict", "status": "200"} and each.value >= 1 for each in answered)
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    assert families["mobilenets_pictures_waiting"].samples[0].value == 0


def test_log_has_no_contents(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mobilenets.serve"):
        live.predict(form((file_header("secret.png"), b"secret bytes")), "?model=colours", FORM)
        live.ask("GET", "/a%0ab")
    assert any("POST /v1/predict 422" in line for line in caplog.messages)
    assert not any("secret" in line or "\n" in line for line in caplog.messages)


def test_key(colours: Path) -> None:
    with running(colours.parent, str(colours), api_key="open-sesame") as live:
        assert live.ask("GET", "/healthz").status == 200
        assert live.ask("GET", "/").status == 200
        for path in ("/v1/models", "/metrics"):
            assert live.ask("GET", path).status == 401
            assert live.ask("GET", path, Authorization="Bearer open").status == 401
            assert live.ask("GET", path, Authorization="Bearer open-sesame").status == 200
        assert live.ask("GET", "/v1/models").headers["www-authenticate"] == "Bearer"


class _Slow(ServedModel):
    """A model that computes when it is allowed to, and remembers its batches."""

    batches: list[int]
    gate: threading.Event
    begun: threading.Event

    def answer(self, tasks: Sequence[Task]) -> list[Answer]:
        self.batches.append(len(tasks))
        self.begun.set()
        self.gate.wait(20)
        return super().answer(tasks)


def _held(live: Live) -> _Slow:
    """Make the first model wait for its gate."""
    model = live.service.model(None)
    model.__class__ = _Slow
    assert isinstance(model, _Slow)
    model.batches, model.gate, model.begun = [], threading.Event(), threading.Event()
    return model


def test_what_queues_is_computed_together_and_too_much_refused(colours: Path) -> None:
    limits = replace(LIMITS, waiting=5, batch=4)
    with running(colours.parent, str(colours), limits=limits) as live, ThreadPoolExecutor(5) as pool:
        model = _held(live)
        first = pool.submit(live.predict, RED)
        assert model.begun.wait(10)
        more = [pool.submit(live.predict, RED) for _ in range(4)]
        while len(live.service._batchers["best"]) < 4:
            assert live.service.places["best"].taken <= 5
        refused = live.predict(RED)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        model.gate.set()
        assert [each.result().status for each in (first, *more)] == [200] * 5
        assert model.batches == [1, 4]
        assert live.service.places["best"].taken == 0


def test_deadline(colours: Path) -> None:
    with running(colours.parent, str(colours), limits=replace(LIMITS, deadline_s=0.2)) as live:
        model = _held(live)
        assert live.predict(RED).status == 504
        assert live.predict(BLUE).status == 504
        model.gate.set()
        while live.predict(RED).status != 200:
            pass
        assert model.batches[:2] == [1, 1]  # the second request was dropped before its turn, the third had the next


def test_end_waits_for_what_is_in_work(colours: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        with running(colours.parent, str(colours)) as live:
            model = _held(live)
            answer = pool.submit(live.predict, RED)
            assert model.begun.wait(10)
            threading.Timer(0.8, model.gate.set).start()
        reply = answer.result()
    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_client(live: Live, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "blue.png").write_bytes(BLUE)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    url = f"http://127.0.0.1:{live.port}"
    there = mobilenets.predict("somewhere/colours.safetensors", str(tmp_path), top=2, url=url)
    here = mobilenets.predict(str(colours), str(tmp_path), top=2, runtime="reference")
    assert there == here
    assert str(there) == str(here)
    with pytest.raises(InputError, match="no model is called 'cats' there: it serves colours, again"):
        mobilenets.predict("cats", str(tmp_path), url=url)
    with pytest.raises(InputError, match="leave them out beside --url"):
        mobilenets.predict("colours", str(tmp_path), url=url, threads=2)
    with pytest.raises(InputError, match="write it as http"):
        mobilenets.predict("colours", str(tmp_path), url="127.0.0.1:80")
    with pytest.raises(InputError, match="is it running there"):
        mobilenets.predict("colours", str(tmp_path), url="http://127.0.0.1:1")
    with running(colours.parent, f"colours={colours}", api_key="k") as closed:
        url = f"http://127.0.0.1:{closed.port}"
        with pytest.raises(InputError, match=r"401.*set MOBILENETS_API_KEY"):
            mobilenets.predict("colours", str(tmp_path), url=url)
        monkeypatch.setenv("MOBILENETS_API_KEY", "k")
        assert mobilenets.predict("colours", str(tmp_path), top=2, url=url) == here


def test_detector(random_network: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    checkpoint = save(random_network("ssdlite_mobilenet_v2"), tmp_path / "boxes.safetensors")
    (path := tmp_path / "noise.png").write_bytes(noise("PNG", (90, 60)))
    here = mobilenets.predict(str(checkpoint), str(path), min_score=0.2, runtime="reference")
    with running(tmp_path, str(checkpoint)) as live:
        assert live.ask("GET", "/v1/model").json()["task"] == "detection"
        reply = live.predict(path.read_bytes(), "?threshold=0.2")
        (item,) = reply.json()["items"]
        assert (item["width"], item["height"]) == (90, 60)
        assert item["detections"] == here.to_json()[0]["detections"]
        assert item["detections"]
        assert mobilenets.predict("boxes", str(path), min_score=0.2, url=f"http://127.0.0.1:{live.port}") == here
        assert live.predict(path.read_bytes(), "?explain=true").status == 422


def test_what_cannot_be_served(colours: Path, colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a model to serve"):
        mobilenets.serve()
    with pytest.raises(InputError, match="two models are called best"):
        open_models([str(colours), str(colours)], "reference", None)
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(InputError, match="cannot listen there"):
            mobilenets.serve(str(colours), port=taken.getsockname()[1])
    with pytest.raises(InputError, match="from 0 to 65535"):
        mobilenets.serve(str(colours), port=99_999)
    with pytest.raises(InputError, match="--queue must be"):
        mobilenets.serve(str(colours), queue=3)
    for flag in ("batch_size", "queue", "timeout", "max_megabytes", "max_megapixels"):
        with pytest.raises(InputError, match=f"^--{flag.replace('_', '-')} must be above 0, not 0$"):
            mobilenets.serve(str(colours), **{flag: 0})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="printable ASCII"):
        mobilenets.serve(str(colours), api_key="a b")
    with pytest.raises(InputError, match="above 0"):
        Limits(deadline_s=0)
    assert save(colour_checkpoint, tmp_path / "a=b" / "c.safetensors").is_file()


@pytest.mark.parametrize(
    ("host", "open_to_all"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_names(host: str, open_to_all: bool) -> None:
    assert (names_for(host, ()) is None) == open_to_all
    assert "example.org" in (names_for(host, ["example.org"]) or ())
