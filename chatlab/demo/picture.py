"""What the demo looks like in a terminal: boxes, lives, the worker, the summary. Pure: from a `Record` to what rich prints.

Nothing is drawn that was not observed. A send takes milliseconds, so its boxes light one after the other; the times beside them are true.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chatlab.demo.promises import BOXES, Verdict
from chatlab.demo.record import Journey, Moments, Record
from chatlab.domain.trace import StageEvent

PACE = 0.12  # seconds between two boxes that light up
WIDE = 110  # columns from which a box also says what it did
WORKER_LINES = 3
TITLES = {
    "create": "Create Message Object",
    "save": "Save to MongoDB",
    "cache_message": "Cache in Redis",
    "cache_conversation": "Update Conversation Cache",
    "emit": "Emit via Socket.io",
    "respond": "Response to Client",
}
REQUESTS = {"http": "HTTP POST Request", "socket": "WebSocket Event"}


def frame(record: Record, now: float, width: int) -> RenderableType:
    """The picture at `now` (milliseconds since 1970): 22 lines, at any width from 80 on."""
    columns = Table.grid(expand=True)
    columns.add_column(ratio=1)
    columns.add_column(ratio=1)
    columns.add_row(*(_boxes(journey, now, wide=width >= WIDE) for journey in record.journeys))
    return Group(columns, _life(record, now, width), _worker(record, now), _reads(record))


# --- the boxes ---------------------------------------------------------------------------------------------------------------------


def _boxes(journey: Journey, now: float, *, wide: bool) -> Panel:
    rows = Table.grid(expand=True)
    rows.add_column(no_wrap=True)
    if wide:
        rows.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
    rows.add_column(justify="right", no_wrap=True)
    for stage in BOXES:
        rows.add_row(*_row(journey, stage, now, wide=wide))
    title = Text.assemble((journey.name, "bold"), f"  {journey.sender} → {journey.receiver}")
    return Panel(rows, title=title, title_align="left", border_style="red" if journey.trouble else "cyan")


def _row(journey: Journey, stage: str, now: float, *, wide: bool) -> list[RenderableType]:
    event, title = journey.box(stage), TITLES.get(stage) or REQUESTS[journey.door]
    is_lit = event is not None and now >= _lights_at(journey, stage)
    mark, style, light = ("●", "bold", "green") if is_lit else ("○", "dim", "dim")
    middle = [f" {_detail(journey, stage)}" if is_lit else ""] if wide else []
    return [Text.assemble((f"{mark} ", light), (title, style)), *middle, Text(f" {_took(event)}" if event and is_lit else "", light)]


def _took(event: StageEvent) -> str:
    return f"{event['tookMs']:.2f} ms" if event["tookMs"] < 100 else f"{event['tookMs']:.0f} ms"


def _lights_at(journey: Journey, stage: str) -> float:
    event, first = journey.box(stage), journey.boxes[0]
    assert event
    return max(float(event["at"]), float(first["at"]) + BOXES.index(stage) * PACE * 1000)


def _detail(journey: Journey, stage: str) -> str:
    message_id = journey.message_id
    return {
        "request": {"http": "/api/messages/send", "socket": "socket.sendMessage"}[journey.door],
        "create": f"_id ..{message_id[-6:]}",
        "save": "majority, on disk",
        "cache_message": f"message:..{message_id[-6:]}",
        "cache_conversation": "messages:{}:{}".format(*sorted((journey.sender, journey.receiver))),
        "emit": "newMessage, to both",
        "respond": journey.answer.status if journey.answer else "",
    }[stage]


# --- the life ----------------------------------------------------------------------------------------------------------------------


def _life(record: Record, now: float, width: int) -> Panel:
    moments, bar_width = record.moments, max(20, width - 4 - 10 - 12)
    rows = [_bar(journey, moments, now, bar_width) for journey in record.journeys]
    indent = " " * 10
    return Panel(
        Group(*rows, Text(indent + _axis(moments, bar_width), "dim"), Text(indent + _words(moments, bar_width), "dim")),
        title=f"[bold]Life in Redis[/bold]  TTL {moments.end:g} s",
        title_align="left",
        border_style="magenta",
    )


def _bar(journey: Journey, moments: Moments, now: float, width: int) -> Text:
    """Time runs to the right: what is left of the life is full, what has passed is empty; past the end, dots until the worker tells."""
    age = journey.age(now) if journey.cached else -1.0
    bar = Text(f"{journey.name:<10}", "bold", no_wrap=True)
    for column in range(width):
        bar.append(*_cell(journey, moments, age, moments.cleaned * (column + 0.5) / width))
    bar.append(f"{_state(journey, moments, age):>12}", _colour(age, moments))
    return bar


def _cell(journey: Journey, moments: Moments, age: float, at: float) -> tuple[str, str]:
    if age < 0 or (at > age and at > moments.end):
        return " ", ""
    if at <= moments.end:
        return ("█", _colour(age, moments)) if at > age else ("─", "dim")
    told = journey.age(journey.cleaned[0]["at"]) if journey.cleaned else age
    return ("·", "red") if at <= told else (" ", "")


def _colour(age: float, moments: Moments) -> str:
    return "dim" if age < 0 else "green" if age < moments.pause else "yellow" if age < moments.end else "red"


def _state(journey: Journey, moments: Moments, age: float) -> str:
    if age < 0:
        return "not cached" if journey.answer else ""
    if journey.cleaned:
        return f"cleaned {journey.age(journey.cleaned[0]['at']):.1f}s"
    return f"{moments.end - age:.2f} s left" if age < moments.end else "expired"


def _axis(moments: Moments, width: int) -> str:
    return _placed([f"{moment:g} s" for moment in moments], moments, width)


def _words(moments: Moments, width: int) -> str:
    return _placed(["cached", "still there", "expired", "cleaned"], moments, width)


def _placed(words: Sequence[str], moments: Moments, width: int) -> str:
    """Each word at its moment: the first begins there, the others end there; one that would touch the next is left out."""
    line, free_to = [" "] * width, width + 1
    for word, moment in reversed(list(zip(words, moments, strict=True))):
        end = max(len(word), round(moment / moments.cleaned * width))
        if end < free_to:
            line[end - len(word) : end], free_to = word, end - len(word)
    return "".join(line)


# --- the worker and the reads ------------------------------------------------------------------------------------------------------


def _worker(record: Record, now: float) -> Panel:
    """The heart beats with the worker."""
    beat_is_new = bool(record.beats) and now - record.beats[-1]["at"] < 300
    heart = Text("♥", "bold red" if beat_is_new else "dim")
    lines = [Text(line, "yellow" if "cleaned" in line else "", no_wrap=True, overflow="ellipsis") for line in record.told[-WORKER_LINES:]]
    lines += [Text("")] * (WORKER_LINES - len(lines))
    title = Text.assemble(("Worker", "bold"), f"  looks every {record.settings.sweep_interval:g} s  ", heart, f" {len(record.beats)}")
    return Panel(Group(*lines), title=title, title_align="left", border_style="blue")


def _reads(record: Record) -> Text:
    line = Text(" GET", "bold", no_wrap=True, overflow="ellipsis")
    readings = [(journey.name, journey.reading) for journey in record.journeys] + [("after the end", record.afterwards)]
    for when, reading in readings:
        if reading:
            line.append(f"  {when}: ", "dim")
            line.append(f"{reading.cache} {reading.took_ms:.1f} ms", "green" if reading.cache == "hit" else "yellow")
    return line


# --- the summary -------------------------------------------------------------------------------------------------------------------


def summary(found: Sequence[Verdict]) -> RenderableType:
    """Every promise with what was measured."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=False, show_edge=False)
    table.add_column("The diagram promises", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("measured: HTTP · Socket.IO", no_wrap=True)
    for verdict in found:
        table.add_row(verdict.promise, Text("seen", "green") if verdict.seen else Text("not seen", "bold red"), figures(verdict))
    return table


def figures(verdict: Verdict) -> str:
    return " · ".join(finding.figure if finding.seen else "-" for finding in verdict.findings.values())


def complaints(found: Sequence[Verdict]) -> list[str]:
    """One sentence for each way in which a promise was not seen, with the doors it was not seen at."""
    sentences = []
    for verdict in found:
        doors: dict[str, list[str]] = {}
        for door, finding in verdict.findings.items():
            if not finding.seen:
                doors.setdefault(finding.figure, []).append(door)
        sentences += [f"{verdict.promise}{_at(names)}: {why}" for why, names in doors.items()]
    return sentences


def _at(doors: Sequence[str]) -> str:
    named = " and ".join(filter(None, doors))
    return f" ({named})" if named else ""
