"""The report: a table for the terminal, and a page with figures and animated pictures."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.atomic import write_atomically
from ...core.layered_video import LayeredVideo
from ...core.schema import BACKGROUND
from .evaluate import Picture, Report
from .figures import Row, ceilings
from .judge import NATURAL

if TYPE_CHECKING:
    from rich.table import Table

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --good: #4cc46a; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
.soft { color: var(--soft); }
figure { margin: 1rem 0 2rem; } figure img { max-width: 100%; display: block; margin: .3rem 0; }
figcaption { max-width: 60rem; }
"""


def write_report(report: Report, folder: str | Path) -> Path:
    """Write `report.json` and a self-contained `index.html`, and return the path of the page.

    Raises:
        MediaError: a picture cannot be written.
    """
    folder = Path(folder)
    text = json.dumps(report.to_json(), indent=1)
    write_atomically(folder / "report.json", text.encode())
    page = folder / "index.html"
    write_atomically(page, html_page(report).encode())
    return page


def rich_table(report: Report) -> Table:
    """Return the rows of a report as a Rich table."""
    return rows_table(report.rows(), _title(report), _settings_text(report))


def rows_table(rows: Iterable[Row], title: str, caption: str) -> Table:
    """Return rows as a Rich table."""
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table(title=plain(title), caption=plain(caption))
    for heading in ("task", "figure", "value", "spread", "n", "reference", "bar", ""):
        table.add_column(heading, justify="right" if heading in ("value", "n") else "left")
    colours = {True: "green", False: "red", None: ""}
    last = None
    for row in rows:
        if last not in (None, row.task):
            table.add_section()
        cells = [plain(cell) for cell in _cells(row)]
        verdict = f"[{colours[row.passed]}]{cells[-1]}[/]" if cells[-1] else ""
        table.add_row("" if row.task == last else cells[0], *cells[1:-1], verdict)
        last = row.task
    return table


def html_page(report: Report) -> str:
    """Return the report as one self-contained page, with every text escaped."""
    lines = []
    for row in report.rows():
        *cells, verdict = _cells(row)
        kinds = ("", "", "number", "number", "number", "", "number")
        columns = [f'<td class="{c}">{escape(cell)}</td>' for c, cell in zip(kinds, cells, strict=True)]
        mark = {True: "yes", False: "no", None: ""}[row.passed]
        lines.append(f'<tr>{"".join(columns)}<td class="{mark}">{escape(verdict)}</td></tr>')
    sections = []
    for case in dict.fromkeys(picture.case for picture in report.pictures):
        shown = [_figure(picture) for picture in report.pictures if picture.case == case]
        sections.append(f"<h2>{escape(case)}</h2>\n" + "\n".join(shown))
    heads = ("task", "figure", "value", "spread", "n", "reference", "bar", "reached")
    title = escape(_title(report))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="soft">{escape(_settings_text(report))}</p>
<p class="soft">{escape(_judge_text(report))}</p>
<div class="wide"><table>
<thead><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr></thead>
<tbody>
{chr(10).join(lines)}
</tbody>
</table></div>
{chr(10).join(sections)}
</body>
</html>
"""


def _title(report: Report) -> str:
    return f"Evaluation of {report.settings['model'] or 'a model'}"


def _settings_text(report: Report) -> str:
    settings = report.settings
    seeds = ", ".join(map(str, settings["seeds"]))
    scales, steps = (sorted(set(settings[name].values())) for name in ("guidance", "steps"))
    return (
        f"{settings['samples']} held-out clips of each task, divided among the seeds {seeds}; "
        f"{settings['frames']} frames of {settings['size']}x{settings['size']}; {' or '.join(map(str, steps))} steps, "
        f"guidance {' or '.join(f'{scale:g}' for scale in scales)}. "
        "Spread is the standard deviation over the seeds. Decomposition uses no prompt."
    )


def _judge_text(report: Report) -> str:
    names = {"natural_colour": "natural colours", BACKGROUND: "background family and colour"}
    accuracy = [f"{names.get(key, key)} {value:.1f} %" for key, value in ceilings(report.records).items()]
    if not accuracy:
        return ""
    return (
        "The judge is trained on true clips of other scenes and never on a model's output; motion is classified "
        f"by a rule on the matte. Their accuracy on the true clips of the same scenes: {', '.join(accuracy)}."
    )


def _cells(row: Row) -> list[str]:
    verdict = {True: "reached", False: "missed", None: ""}[row.passed]
    spread = "" if row.spread is None else f"± {row.format(row.spread)}"
    return [
        row.task,
        row.figure,
        row.format(row.value),
        spread,
        str(row.count),
        row.reference,
        row.bar_text,
        verdict,
    ]


def _figure(picture: Picture) -> str:
    record = picture.record
    lines = [f"<b>{escape(picture.kind)}</b> (seed {int(record['seed'])}, scene {int(record['index'])})"]
    lines += [f"{escape(layer)}: “{escape(text)}”" for layer, text in record["prompts"].items()]
    lines += [escape(line) for line in _measurements(record)]
    parts = [f"<figure><figcaption>{'<br>'.join(lines)}</figcaption>"]
    parts.append(f'<img src="{_data_uri(picture.output)}" alt="all layers, {escape(picture.kind)} sample">')
    parts.append('<span class="soft">the true layers:</span>')
    parts.append(f'<img src="{_data_uri(picture.truth)}" alt="true layers of the scene"></figure>')
    return "\n".join(parts)


def _measurements(record: dict) -> list[str]:
    """Return the main measurements of one sample as text."""
    if "alpha_iou" in record:
        return [
            f"alpha IoU {record['alpha_iou']:.3f}, MAE {record['alpha_mae']:.4f}, "
            f"background {record['background_psnr']:.1f} dB"
        ]
    if "named" not in record:  # only compared with another record
        return []
    named = {key: value or "nothing" for key, value in record["named"].items()}
    if named.get("colour") == NATURAL:
        named["colour"] = "natural"
    seen = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in named.items())
    return [f"named: {seen}", f"composite {record['composite_psnr']:.1f} dB"]


def _data_uri(video: LayeredVideo) -> str:
    """Return an animated preview of all layers as a data URI."""
    from ...media import write_preview

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.webp"
        write_preview(video, path, scale=2 if video.height <= 96 else None)
        return f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
