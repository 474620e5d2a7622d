"""A run as one HTML page that needs nothing else: no script, no request, pictures inside the file."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

# What each score means, for a reader who has never heard of it; key, name, sentence.
SCORES = (
    ("dice", "Dice", "Overlap of predicted and true object pixels: twice the shared area over the sum of both areas."),
    ("iou", "IoU", "The same overlap, stricter: shared area over the area that either of them covers."),
    (
        "aji",
        "AJI",
        "Overlap object by object; objects that were missed, invented, merged or split all count against it.",
    ),
    ("pq", "PQ", "Panoptic quality: how many objects are found, times how well the found ones overlap."),
    (
        "ap50",
        "AP50",
        "Found objects over found + missed + invented ones; found = IoU above one half.",
    ),
    ("object_dice", "Object Dice", "Dice of each object with its best partner, averaged by area."),
    (
        "object_hausdorff",
        "Object Hausdorff",
        "Largest distance between an object's outline and its partner's, averaged by area. Smaller is better.",
    ),
)
MASKS = (
    ("precision", "Precision", "Share of the masks' area that truly lies in an object."),
    ("recall", "Recall", "Share of the objects' area that the masks hold."),
    ("dice", "Dice", "Both in one number."),
)
AGREEMENT = (
    ("mean_absolute_error", "Mean absolute error", "How far the circumference is from the measured one, on average."),
    ("bias", "Bias", "By how much it is larger (above 0) or smaller than the measured one, on average."),
    ("lower", "Lower limit of agreement", "One image in forty is expected to fall below (bias - 1.96 deviations)."),
    ("upper", "Upper limit of agreement", "And one in forty above (bias + 1.96 deviations)."),
)
METHODS = {
    "rams": "rough marks grow to the objects' boundaries while the network trains",
    "strong": "only the outlined images are used",
    "naive": "rough marks are taken as if they were full outlines",
    "ignore": "rough marks teach the segmentation, and the pixels around them are ignored",
    "multitask": "rough marks teach a task of their own, and do not grow",
    "pseudo": "confident predictions join the rough marks as labels",
    "scribble2label": "predictions that stay confident on average join the rough marks as labels",
    "threestage": "masks of one task teach a second one, whose masks teach the first one in the end",
    "dmsps": "two tasks teach each other by a mix of what both say",
    "seedgrow": "confident predictions that hang together with a rough mark join it as labels",
    "full": "every training image is used with its true outlines: the upper bound",
}
PIXELS = "object_hausdorff"  # the one score that is a distance and not a share

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #595959; --line: #c8c8c8; --tint: #f3f4f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --paper: #16181a; --soft: #b0b4b8; --line: #45494d; --tint: #222629; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: .4rem 0 .8rem; }
.soft, figcaption { color: var(--soft); font-size: .92rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem;
  margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .8rem; background: var(--tint); }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; width: 100%; max-width: 60rem; }
caption { text-align: left; color: var(--soft); font-size: .92rem; padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.facts th { width: 40%; } .facts td { overflow-wrap: anywhere; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0 2rem; }
figure img { display: block; width: auto; max-width: 100%; height: auto; background: #fff; border-radius: .35rem; }
figcaption { margin-top: .4rem; max-width: 52rem; overflow-wrap: anywhere; }
.warnings { border: 2px solid var(--ink); border-left-width: .6rem; border-radius: .3rem; padding: .3rem 1rem; }
.warnings li { margin: .3rem 0; overflow-wrap: anywhere; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .4rem 0; }
pre { overflow-x: auto; padding: .8rem; background: var(--tint); border: 1px solid var(--line); border-radius: .35rem;
  font-size: .82rem; line-height: 1.4; }
@media screen and (max-width: 40rem) {
  .wide img { max-width: none; width: 44rem; }
  .wide + figcaption::before { content: "Swipe the picture sideways. "; }
  .scores thead { display: none; }
  .scores tr { display: grid; grid-template-columns: 1fr auto; border-bottom: 1px solid var(--line); padding: .4rem 0; }
  .scores th, .scores td { border: 0; padding: 0; } .scores td:last-child { grid-column: 1 / -1; } }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #333; --line: #999; --tint: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, .tiles, .warnings { break-inside: avoid; } h2 { break-after: avoid; }
  figure img { max-height: 22cm; } .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; } pre { white-space: pre-wrap; } }
"""


def render(config: dict, summary: dict, rows: list[dict], figures: dict[str, bytes]) -> str:
    """The report of one run.

    Args:
      config: the run's settings, nested dictionaries of JSON values.
      summary: the contents of summary.json; `masks` may be None or absent for methods that grow none, `circumference`
        for data without it, and values that were not measured may be None.
      rows: the lines of metrics.jsonl.
      figures: PNG bytes by file name; `growth.png`, other `growth*`, `prediction*` and `curves*` have their places,
        any other name comes at the end.

    Returns:
      HTML5 text, UTF-8. Every name and number from the arguments is escaped. Shares are rounded to 3 decimals,
      distances to 2, percentages to whole ones.
    """
    masks = summary.get("masks")
    title = f"{summary['method']} on {summary['data']}"
    kinds = [_kind(name) for name in figures]
    chosen = {
        kind: [name for name, k in zip(figures, kinds, strict=True) if k == kind] for kind in dict.fromkeys(kinds)
    }
    body = [
        f"<h1>{escape(title)}</h1>",
        _introduction(summary),
        _tiles(summary),
        _warnings(summary.get("warnings") or []),
        "<h2>What was run</h2>",
        _facts(
            [
                ("Method", _method(summary["method"])),
                ("Data", summary["data"]),
                ("Outlined training images", summary["strong"]),
                ("Roughly marked training images", summary["weak"]),
                ("Training steps", summary["steps"]),
                ("Seed", summary["seed"]),
            ]
        ),
        _images(chosen.get("gallery", []), figures, "How the masks grew"),
    ]
    if masks:
        body += [
            "<h2>The grown masks</h2>",
            "<p>In the roughly marked images training began from the marks alone. "
            "This is how the masks at its end compare with the true outlines.</p>",
            _scores(MASKS, masks, "Measure"),
        ]
    body += [
        "<h2>Scores on the test images</h2>",
        "<p>Measured on images that training never saw. 1 is perfect and 0 is worst, unless a line says otherwise.</p>",
        _scores(SCORES, summary["test"], "Score"),
        _by_class(config["data"]["class_names"], summary["test"]),
        _agreement(summary.get("circumference")),
        _images(chosen.get("agreement", []), figures, "Agreement"),
        _images(chosen.get("prediction", []), figures, "Predictions"),
        _images(chosen.get("growth", []), figures, "More masks that grew"),
        _images(chosen.get("curves", []), figures, "How training went"),
        _evaluations(rows),
        _images(chosen.get("other", []), figures, "More pictures"),
        "<h2>How it was made</h2>",
        _making(summary),
        "<details><summary>All settings</summary><pre>"
        + escape(json.dumps(config, indent=2, ensure_ascii=False, default=str))
        + "</pre></details>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def share(value: float | None, decimals: int = 3) -> str:
    """A number with that many decimals; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def duration(seconds: float | None) -> str:
    """Seconds as `42 s`, `3 min 05 s` or `2 h 07 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _method(name: str) -> str:
    return f"{name}: {METHODS[name]}" if name in METHODS else name


def _introduction(summary: dict) -> str:
    images = f"{summary['strong']} fully outlined, {summary['weak']} roughly marked"
    words = f"Training images: {images}. Method {_method(summary['method'])}."
    return f"<p>{escape(words)} {escape(str(summary['steps']))} steps took {duration(summary.get('seconds'))}.</p>"


def _tiles(summary: dict) -> str:
    test, masks = summary["test"], summary.get("masks")
    tiles = [("pixel Dice, test images", test.get("dice")), ("AJI, test images", test.get("aji"))]
    if masks:
        tiles += [("precision, grown masks", masks.get("precision")), ("recall, grown masks", masks.get("recall"))]
    return '<ul class="tiles">' + "".join(f"<li><b>{share(v)}</b> {escape(n)}</li>" for n, v in tiles) + "</ul>"


def _warnings(warnings: list[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(str(warning))}</li>" for warning in warnings)
    return f'<div class="warnings"><p><strong>Warnings</strong></p><ul>{items}</ul></div>'


def _facts(facts: list[tuple[str, Any]]) -> str:
    lines = "".join(f'<tr><th scope="row">{escape(n)}</th><td>{escape(str(v))}</td></tr>' for n, v in facts)
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def _scores(meanings: tuple[tuple[str, str, str], ...], values: dict, heading: str) -> str:
    lines = []
    for key, name, meaning in meanings:
        number = share(values.get(key), 2) + " px" if key == PIXELS else share(values.get(key))
        lines.append(f'<tr><th scope="row">{name}</th><td class="number">{number}</td><td>{escape(meaning)}</td></tr>')
    return (
        f'<table class="scores"><thead><tr><th scope="col">{heading}</th><th scope="col" class="number">Value</th>'
        f'<th scope="col">What it says</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )


def _by_class(names: Sequence[str], values: dict) -> str:
    """The same scores of each class, where there are several; the scores above are their means."""
    if len(names) < 2:
        return ""
    head = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in names)
    lines = []
    for key, name, _ in SCORES:
        found = [values.get(f"{key}_{k}") for k in range(1, len(names) + 1)]
        texts = [share(v, 2) + " px" if key == PIXELS else share(v) for v in found]
        cells = "".join(f'<td class="number">{text}</td>' for text in texts)
        lines.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return (
        "<h3>By class</h3><p>A score above is the mean of those of the classes that occur.</p>"
        f'<div class="scroll"><table><thead><tr><th scope="col">Score</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _agreement(circumference: dict | None) -> str:
    """The circumference against a person's measurement, in mm."""
    if not circumference:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{name}</th><td class="number">{share(circumference[key], 2)} mm</td>'
        f"<td>{escape(meaning)}</td></tr>"
        for key, name, meaning in AGREEMENT
    )
    seen = circumference["images"] - circumference["missed"]
    return (
        "<h2>Circumference on the test images</h2>"
        f"<p>Of the ellipse fitted to the prediction, against what a person measured, on {seen} of "
        f"{circumference['images']} images; on the others nothing was found.</p>"
        '<table class="scores"><thead><tr><th scope="col">Measure</th><th scope="col" class="number">Value</th>'
        f'<th scope="col">What it says</th></tr></thead><tbody>{lines}</tbody></table>'
    )


def _evaluations(rows: list[dict]) -> str:
    """The evaluations in numbers, at most a dozen lines, for those who cannot see the curves."""
    columns = [
        ("val_dice", "Dice, validation"),
        ("val_aji", "AJI, validation"),
        ("masks_precision", "precision, masks"),
        ("masks_recall", "recall, masks"),
        ("masks_dice", "Dice, masks"),
    ]
    kept = [row for row in rows if any(row.get(key) is not None for key, _ in columns)]
    columns = [column for column in columns if any(row.get(column[0]) is not None for row in kept)]
    if not kept:
        return ""
    stride = -(-len(kept) // 12)
    kept = kept[::-1][::stride][::-1]  # counted from the end, so that the last one stays
    head = "".join(f'<th scope="col" class="number">{escape(label)}</th>' for _, label in columns)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(row["step"]))}</th>'
        + "".join(f'<td class="number">{share(row.get(key))}</td>' for key, _ in columns)
        + "</tr>"
        for row in kept
    )
    table = f'<table><thead><tr><th scope="col">Step</th>{head}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<details><summary>The scores over time, in numbers</summary><div class="scroll">{table}</div></details>'


def _making(summary: dict) -> str:
    rate, part, memory = (summary.get(key) for key in ("steps_per_second", "evolution_share", "peak_memory_mib"))
    chosen = {name.replace("_", " "): f"{value:g}" for name, value in (summary.get("instances") or {}).items()}
    facts: list[tuple[str, Any]] = [
        ("Settings that cut out objects", ", ".join(f"{name} {value}" for name, value in chosen.items()) or "–"),
        ("Time", duration(summary.get("seconds"))),
        ("Steps per second", share(rate, 2)),
        ("Share of a step spent growing masks", "–" if part is None else f"{part:.0%}"),
        ("Largest memory", "–" if memory is None else f"{memory:.0f} MiB"),
        ("Device", summary.get("device") or "–"),
        ("Commit", summary.get("commit") or "–"),
    ]
    versions = summary.get("versions") or {}
    facts += [("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "–")]
    return _facts(facts)


def _kind(name: str) -> str:
    if name == "growth.png":
        return "gallery"
    return next((kind for kind in ("growth", "prediction", "curves", "agreement") if name.startswith(kind)), "other")


def _images(names: list[str], figures: dict[str, bytes], heading: str) -> str:
    if not names:
        return ""
    parts = [f"<h2>{escape(heading)}</h2>"]
    for name in names:
        wide = _kind(name) in ("curves", "prediction")  # too small on a phone unless it may be swiped
        about = escape(_about(name), quote=True)
        data = base64.b64encode(figures[name]).decode("ascii")
        picture = f'<img alt="{about}" src="data:image/png;base64,{data}">'
        frame = f'<div class="scroll{" wide" if wide else ""}">{picture}</div>'
        parts.append(f"<figure>{frame}<figcaption>{about}</figcaption></figure>")
    return "\n".join(parts)


def _about(name: str) -> str:
    """What a picture shows, in words: its caption, and its text where it cannot be seen."""
    stem = name.rsplit(".", 1)[0]
    subject = stem.partition("_")[2]
    match _kind(name):
        case "gallery":
            return (
                "Parts of training images: as they are, with the marks drawn on them, and with the masks grown from "
                "them. Red are the drawn marks; rings run from light (early updates) to dark (late); the white line is "
                "the true boundary."
            )
        case "growth":
            return (
                f"Training image {subject}, plain and with its masks: red marks, rings from light (early) to dark "
                "(late), the true boundary in white where it is known, stripes where nobody looked."
            )
        case "prediction":
            return (
                f"Test image {subject}: the image, the true outlines, and the prediction. Pale green is correct, "
                "orange is extra (inside the black line), dark blue is missed (outside it)."
            )
        case "agreement":
            return (
                f"Difference between predicted and measured {subject} against the mean of both, a circle an image; the "
                "line is the bias, the dashed lines hold 95 % of the differences."
            )
        case "curves":
            return "Losses, scores, area of the masks and the schedule over the training steps."
    return stem
