import base64
import json
import re
from html.parser import HTMLParser

import pytest

from rams_jax.report import MASKS, SCORES, duration, render, share

VOID = {"meta", "img", "br", "hr", "link", "input"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)  # one pixel

SUMMARY = {
    "method": "rams",
    "data": "scratch_assay",
    "seed": 3,
    "strong": 4,
    "weak": 26,
    "steps": 600,
    "test": {
        "dice": 0.92349,
        "iou": 0.85811,
        "aji": 0.77127,
        "pq": 0.75128,
        "ap50": 0.9,
        "object_dice": 0.88166,
        "object_hausdorff": 3.21987,
    },
    "instances": {"threshold": 0.35, "marker_sigma": 3.0},
    "masks": {"precision": 0.96129, "recall": 0.91236, "dice": 0.93618},
    "seconds": 431.4,
    "steps_per_second": 1.6249,
    "evolution_share": 0.1349,
    "peak_memory_mib": 2310.4,
    "device": "cpu, 2 cores",
    "commit": "0123abc",
    "versions": {"jax": "0.10.2", "python": "3.11.7"},
    "warnings": [],
}
CONFIG = {"method": "rams", "data": {"class_names": ("nucleus",)}, "train": {"steps": 600}}
ROWS = [{"step": 10 * i, "loss": 1.0} for i in range(60)] + [
    {"step": 100 * i, "val_dice": 0.1 + 0.01 * i, "masks_recall": 0.5} for i in range(30)
]
FIGURES = {
    name: PNG for name in ("curves.png", "growth_frame03_row0_col2.png", "growth.png", "prediction_frame09_row1.png")
}


class Page(HTMLParser):
    """Tags with their attributes and the text; fails where a tag is closed that was not the last one opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def table_cells(html, name):
    """The cells of the first table line that begins with this name."""
    line = re.search(rf"<tr><th[^>]*>{re.escape(name)}</th>(.*?)</tr>", html).group(1)
    return re.findall(r"<td[^>]*>(.*?)</td>", line)


def test_every_number_is_there_rounded_as_stated():
    html = render(CONFIG, SUMMARY, ROWS, FIGURES)
    expected = {
        "Dice": "0.923",
        "IoU": "0.858",
        "AJI": "0.771",
        "PQ": "0.751",
        "AP50": "0.900",
        "Object Dice": "0.882",
        "Object Hausdorff": "3.22 px",
        "Settings that cut out objects": "threshold 0.35, marker sigma 3",
        "Steps per second": "1.62",
        "Share of a step spent growing masks": "13%",
        "Largest memory": "2310 MiB",
        "Time": "7 min 11 s",
        "Outlined training images": "4",
        "Roughly marked training images": "26",
        "Training steps": "600",
        "Seed": "3",
        "Device": "cpu, 2 cores",
        "Commit": "0123abc",
        "Versions": "jax 0.10.2, python 3.11.7",
    }
    masks, tests = html.index("<h2>The grown masks"), html.index("<h2>Scores on the test images")
    assert masks < tests
    page = html[:masks] + html[tests:]  # both tables have a line for Dice
    expected_masks = {"Precision": "0.961", "Recall": "0.912", "Dice": "0.936"}
    assert {name: table_cells(page, name)[0] for name in expected} == expected
    assert {name: table_cells(html[masks:tests], name)[0] for name in expected_masks} == expected_masks
    for key, name, meaning in (*SCORES, *MASKS):
        assert key and name in html and len(meaning) > 15


def test_page_is_whole_and_asks_for_nothing():
    html = render(CONFIG, SUMMARY, ROWS, FIGURES)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named("meta")
    assert {"charset": "utf-8"} in page.named("meta")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"}
    for _, attributes in page.tags:
        assert "href" not in attributes and not any(name.startswith("on") for name in attributes)
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.named("img"))
    assert "http" not in html and "url(" not in html and "@import" not in html


def test_pictures_come_back_from_the_page_and_are_told_in_words():
    pictures = {name: PNG + name.encode() for name in FIGURES}  # told apart by what follows the image data
    html = render(CONFIG, SUMMARY, ROWS, pictures)
    shown = [base64.b64decode(a["src"].partition(",")[2]) for a in Page(html).named("img")]
    order = ["growth.png", "prediction_frame09_row1.png", "growth_frame03_row0_col2.png", "curves.png"]
    assert shown == [pictures[name] for name in order]
    alts = [a["alt"] for a in Page(html).named("img")]
    assert "frame09_row1" in alts[1] and "frame03_row0_col2" in alts[2] and all(len(alt) > 30 for alt in alts)


def test_other_pictures_are_not_lost():
    page = Page(render(CONFIG, SUMMARY, ROWS, {"speed.png": PNG}))
    assert [a["alt"] for a in page.named("img")] == ["speed"]


def test_headings_are_in_order():
    html = render(CONFIG, SUMMARY, ROWS, FIGURES)
    assert re.findall(r"<h\d>(.*?)</h\d>", html) == [
        "rams on scratch_assay",
        "What was run",
        "How the masks grew",
        "The grown masks",
        "Scores on the test images",
        "Predictions",
        "More masks that grew",
        "How training went",
        "How it was made",
    ]


@pytest.mark.parametrize(
    "place", ["data", "method", "device", "commit", "warnings", "versions", "config", "figure", "seed"]
)
def test_everything_is_escaped(place):
    evil = "<script>alert('x')</script>\"&"
    summary, config, pictures = dict(SUMMARY), CONFIG, FIGURES
    match place:
        case "config":
            config = {"data": {"class_names": ("nucleus",), "folder": evil}}
        case "figure":
            pictures = {f"growth_{evil}.png": PNG}
        case "warnings":
            summary["warnings"] = [evil]
        case "versions":
            summary["versions"] = {evil: evil}
        case _:
            summary[place] = evil
    page = Page(render(config, summary, ROWS, pictures))
    assert page.named("script") == []
    said = page.named("img")[0]["alt"] if place == "figure" else page.text
    assert (evil.replace('"', '\\"') if place == "config" else evil) in said  # JSON has its own escapes


@pytest.mark.parametrize("masks", [None, "absent"])
def test_methods_without_growth_have_no_section_on_masks(masks):
    summary = {key: value for key, value in SUMMARY.items() if key != "masks"} | ({} if masks else {"masks": None})
    page = Page(render(CONFIG, summary | {"method": "strong", "evolution_share": None}, [], {}))
    assert "The grown masks" not in page.text and "grown masks" not in page.text
    assert "0.923" in page.text and "Share of a step spent growing masks –" in page.text


def test_missing_values_are_dashes():
    summary = SUMMARY | {"test": {"dice": None, "aji": float("nan")}, "seconds": None, "peak_memory_mib": None}
    html = render(CONFIG, summary, ROWS, {})
    tests = html[html.index("<h2>Scores on the test images") :]
    assert table_cells(tests, "Dice")[0] == table_cells(html, "AJI")[0] == table_cells(html, "PQ")[0] == "–"
    assert table_cells(html, "Time")[0] == table_cells(html, "Largest memory")[0] == "–"
    assert "nan" not in Page(html).text and "None" not in Page(html).text


def test_scores_of_several_classes_stand_side_by_side():
    names = ("bubble", "<ice>")
    test = SUMMARY["test"] | {"dice_1": 0.91251, "dice_2": 0.5, "aji_1": 0.25, "object_hausdorff_2": 4.567}
    html = render({"data": {"class_names": names}}, SUMMARY | {"test": test}, [], {})
    table = html[html.index("By class") :]
    assert re.findall(r'<th scope="col" class="number">(.*?)</th>', table)[:2] == ["bubble", "&lt;ice&gt;"]
    assert table_cells(table, "Dice") == ["0.913", "0.500"] and table_cells(table, "AJI") == ["0.250", "–"]
    assert table_cells(table, "Object Hausdorff") == ["– px", "4.57 px"]
    assert table_cells(html[html.index("<h2>Scores on") :], "Dice")[0] == "0.923"  # the mean stays the first
    assert "By class" not in render(CONFIG, SUMMARY, [], {})


def test_warnings_are_shown_only_when_there_are_any():
    assert "Warnings" not in Page(render(CONFIG, SUMMARY, ROWS, {})).text
    page = Page(render(CONFIG, SUMMARY | {"warnings": ["12 instances stalled", "3 overshot"]}, ROWS, {}))
    assert "Warnings 12 instances stalled 3 overshot" in page.text


def test_scores_over_time_are_few_lines_and_keep_the_last():
    html = render(CONFIG, SUMMARY, ROWS, {})
    table = html[html.index("The scores over time") :]
    table = table[: table.index("</table>")]
    steps = [int(step) for step in re.findall(r'<th scope="row">(\d+)</th>', table)]
    assert len(steps) <= 12 and steps[-1] == 2900 and steps == sorted(steps)
    assert table_cells(table, "2900") == ["0.390", "0.500"]
    assert "AJI" not in table  # never logged
    assert "The scores over time" not in render(CONFIG, SUMMARY, [{"step": 1, "loss": 1.0}], {})


def test_settings_can_be_read_back():
    html = render(CONFIG | {"train": {"steps": 600, "note": "a & b <c> é"}}, SUMMARY, ROWS, {})
    page = Page(html)
    assert page.named("details")
    text = "".join(page.words)
    assert json.loads(text[text.rindex("All settings") + 12 :])["train"]["note"] == "a & b <c> é"


def test_page_is_hardly_larger_than_its_pictures():
    picture = PNG + bytes(300_000)
    html = render(CONFIG, SUMMARY, ROWS * 100, {f"growth_{i}.png": picture for i in range(4)})
    assert len(html.encode()) < 4 * len(picture) * 4 / 3 + 40_000


def test_number_formats():
    assert [share(0.12345), share(2.0, 2), share(None), share(float("inf"))] == ["0.123", "2.00", "–", "–"]
    assert [duration(s) for s in (0.4, 59.4, 59.6, 185, 3599.7, 7620, None)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "3 min 05 s",
        "1 h 00 min",
        "2 h 07 min",
        "–",
    ]
