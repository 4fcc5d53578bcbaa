"""The page in a browser, with a service behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mobilenets.page import files

Service = tuple[str, Any]


def speaks(visit: Any, words: str) -> None:
    """Wait until a screen reader is told something."""
    visit.page.locator("#said", has_text=words).wait_for(state="attached")


def test_a_chosen_picture_is_answered_with_scores_and_times(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.choose(flags[0])
    answer = page.answer()
    assert [name for name, _ in answer] == ["red", "green", "blue"]
    assert answer[0][1] == pytest.approx(230 / 270, abs=1e-4)
    assert page.page.locator(".bars .score").first.inner_text() == "85.2 %"
    assert page.page.locator(".headline").inner_text().startswith("red")
    assert re.fullmatch(r"[\d.]+ ms", page.page.locator("[data-time=total]").inner_text())
    assert float(page.page.locator("[data-time=rate]").inner_text()) > 0
    assert "network 1.0 ms · rest of the service 1.5 ms" in page.page.locator(".steps").inner_text()
    widths = page.page.eval_on_selector_all(".bars .fill", "all => all.map(each => parseFloat(each.style.width))")
    assert widths == sorted(widths, reverse=True)
    speaks(page, "red, 85 %")
    assert page.page.locator("canvas").get_attribute("aria-label") == "red, 85 %"


def test_several_pictures_make_a_strip_to_choose_from(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.choose(flags[0], flags[1])
    strip = page.page.locator("#strip button")
    strip.nth(1).filter(has_text="green").wait_for()
    strip.nth(1).click()
    page.page.locator(".headline", has_text="green").wait_for()
    assert [each.get_attribute("aria-pressed") for each in strip.all()] == ["false", "true"]


def test_a_file_that_is_no_picture_is_said_to_be_none(visit: Any, service: Service, tmp_path: Path) -> None:
    page = visit(service[0])
    page.ready()
    bad = tmp_path / "notes.jpg"
    bad.write_text("these are notes", encoding="utf-8")
    page.choose(bad)
    message = page.page.locator(".view .unable")
    message.wait_for()
    assert message.get_attribute("role") == "alert"
    assert "notes.jpg: picture: not a picture" in message.inner_text()
    assert page.page.locator(".bars").is_hidden()
    # The browser itself notes that a request was refused; nothing else went wrong.
    assert [text for text in page.complaints if "422" not in text] == []
    page.complaints.clear()


DROPPED = """async ([kind, name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  const event = kind === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
    : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
  document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pictures_are_dropped_and_pasted(visit: Any, service: Service, flags: list[Path], kind: str) -> None:
    page = visit(service[0])
    page.ready()
    page.page.evaluate(DROPPED, [kind, "given.png", list(flags[1].read_bytes())])
    assert page.answer()[0][0] == "green"


def test_the_camera_is_looked_at_one_frame_at_a_time(visit: Any, service: Service) -> None:
    address, behind = service
    page = visit(address)
    page.ready()
    button = page.page.locator("#camera")
    button.click()
    page.answer()
    assert button.get_attribute("aria-pressed") == "true"
    for _ in range(600):
        if behind.answered >= 5:
            break
        page.page.wait_for_timeout(100)
    assert behind.answered >= 5
    assert behind.most_at_once == 1
    assert page.page.locator("video").evaluate("video => video.videoWidth") > 0
    button.click()  # keeps the frame as a picture
    page.page.locator(".stage img:not([hidden])").wait_for()
    page.answer()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.page.locator("video").evaluate("video => video.srcObject") is None


PIXEL = """([x, y]) => {
  const canvas = document.querySelector("canvas");
  return [...canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
}"""


def test_boxes_are_drawn_where_they_are(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.page.locator(".model select").select_option("finder")
    page.page.locator("#threshold-setting").wait_for()
    assert page.page.locator("#heat-setting").is_hidden()
    page.choose(flags[2])
    assert page.answer() == [("red thing", 0.9)]
    speaks(page, "1 red thing")
    edges = [(40 / 160, 0.5), (100 / 160, 0.5), (70 / 160, 90 / 120)]
    assert all(page.page.evaluate(PIXEL, list(edge))[3] == 255 for edge in edges)
    assert page.page.evaluate(PIXEL, [0.43, 0.5])[3] == 0  # inside, and outside, the picture shows
    assert page.page.evaluate(PIXEL, [0.9, 0.9])[3] == 0
    page.page.locator("#threshold").fill("20")
    page.page.locator(".bars li").nth(1).wait_for()
    assert [name for name, _ in page.answer()] == ["red thing", "everything"]
    page.page.locator(".judged > summary").click()
    page.page.locator(".report td", has_text="87.50 %").first.wait_for()
    said = page.page.locator(".report").inner_text()
    assert all(words in said for words in ("mAP .5:.95", "red thing", "Mean average precision, 0.167 to 0.500"))
    assert "Confusion matrix" not in said


def test_heat_is_asked_for_when_it_is_wanted(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.choose(flags[0])
    page.answer()
    assert page.page.evaluate(PIXEL, [0.1, 0.1])[3] == 0
    page.page.locator("#heat").fill("80")
    page.page.locator(".bars [aria-pressed=true]").wait_for()  # the class whose heat it is
    strong, weak = page.page.evaluate(PIXEL, [0.1, 0.1]), page.page.evaluate(PIXEL, [0.9, 0.9])
    assert strong[3] > 2 * weak[3] > 0
    assert page.page.locator("#heat-value").inner_text() == "80 %"


def test_two_models_look_at_the_same_picture(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.choose(flags[0])
    page.answer()
    page.page.locator("#compare").click()
    assert [page.answer(view)[0][0] for view in (0, 1)] == ["red", "green"]
    assert page.page.locator(".view img").nth(1).get_attribute("src") == page.page.locator(
        ".view img"
    ).first.get_attribute("src")
    page.choose(flags[1])
    page.page.locator(".view").nth(1).locator(".headline", has_text="blue").wait_for()
    assert [page.answer(view)[0][0] for view in (0, 1)] == ["green", "blue"]
    page.page.locator("#compare").click()
    assert page.page.locator(".view").count() == 1


def test_the_card_and_the_report_are_shown(visit: Any, service: Service) -> None:
    page = visit(service[0])
    page.ready()
    page.page.locator(".about > summary").click()
    card = page.page.locator(".card")
    card.locator("table").first.wait_for()
    assert "75.00 % on flags, 8 pictures" in card.inner_text()
    page.page.locator(".judged > summary").click()
    matrix = page.page.locator(".matrix")
    matrix.wait_for()
    rows = [row.locator("td").all_inner_texts() for row in matrix.locator("tbody tr").all()]
    assert rows == [["3", "·", "·"], ["1", "2", "·"], ["·", "1", "1"]]
    assert page.page.locator(".curves polyline").count() == 3
    assert page.page.locator(".report a").get_attribute("href") == "report.html"


def test_a_service_with_a_key_is_given_it(visit: Any, service: Service) -> None:
    service[1].key = "open sesame"
    page = visit(service[0])
    page.page.locator("#key").fill("sesame")
    page.page.keyboard.press("Enter")
    page.page.locator("#key-again").wait_for()
    page.page.locator("#key").fill("open sesame")
    page.page.locator("#key-give").click()
    page.ready()
    assert all("401" in text for text in page.complaints)  # the browser notes each refusal
    page.complaints.clear()


@pytest.mark.parametrize("width", [320, 390])
def test_it_fits_a_phone(visit: Any, service: Service, flags: list[Path], width: int) -> None:
    page = visit(service[0], width=width, height=700)
    page.ready()
    page.choose(*flags)
    page.answer()
    page.page.locator(".about > summary").click()
    page.page.locator(".judged > summary").click()
    page.page.locator(".matrix").wait_for()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.page.locator("button:visible, label.button:visible").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 40  # a thumb


def test_it_is_dark_where_that_is_wished(visit: Any, service: Service) -> None:
    lightness = []
    for scheme in ("light", "dark"):
        page = visit(service[0], scheme=scheme)
        colour = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness.append(sum(int(value) for value in re.findall(r"\d+", colour)))
    assert lightness[0] > 600
    assert lightness[1] < 150


def test_everything_is_reached_by_keyboard(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.choose(flags[0])
    page.answer()
    keyboard, reached = page.page.keyboard, []
    for _ in range(14):
        keyboard.press("Tab")
        reached.append(
            page.page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    order = [name for name in dict.fromkeys(reached) if name in {"compare", "file", "camera", "heat"}]
    assert order == ["compare", "file", "camera", "heat"]
    assert {"SELECT", "SUMMARY"} <= set(reached)
    page.page.locator("#heat").focus()
    for _ in range(4):
        keyboard.press("ArrowRight")
    assert page.page.locator("#heat-value").inner_text() == "20 %"
    page.page.locator("#camera").focus()
    keyboard.press("Enter")
    page.page.locator("#camera[aria-pressed=true]").wait_for()
    keyboard.press("Escape")
    page.page.locator("#camera[aria-pressed=false]").wait_for()


NAMELESS = """() => [
  ...document.querySelectorAll("button, input, select, summary, a, canvas, img, section"),
].filter((each) => {
  const label = each.labels?.length ? each.labels[0].textContent : "";
  const name = each.getAttribute("aria-label") ?? (label || each.textContent || each.getAttribute("title") || "");
  return !name.trim() && each.getAttribute("alt") === null;
}).map((each) => each.outerHTML)"""


def test_everything_has_a_name(visit: Any, service: Service, flags: list[Path]) -> None:
    page = visit(service[0])
    page.ready()
    page.choose(*flags)
    page.answer()
    assert page.page.evaluate(NAMELESS) == []
    assert page.page.locator("[role=status][aria-live=polite]").count() == 1
    assert page.page.evaluate("document.documentElement.lang") == "en"


def luminance(colour: str) -> float:
    """Return a colour's relative luminance (WCAG 2.2)."""
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_what_they_stand_on(theme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", files()["page.css"].decode(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[theme]))
    pairs = [(words, ground) for words in ("ink", "faint", "accent", "wrong") for ground in ("page", "card")]
    for words, ground in [*pairs, ("ink", "soft"), ("faint", "track"), ("on-accent", "accent")]:
        dark, light = sorted(luminance(colours[name]) for name in (words, ground))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{words} on {ground}"


def test_nothing_is_asked_of_anybody_else() -> None:
    for name, content in files().items():
        addresses = re.findall(r"https?://[^\s\"'`)<]+", content.decode())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name
