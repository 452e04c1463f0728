"""Draw one frame of the demo: a pure function from a `DemoRecord` to what rich prints.

Only what was observed is drawn. A send takes milliseconds, so its stages light up one after the
other to be visible; the times next to them are the measured ones.
"""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chatlab.demo.promises import STAGES
from chatlab.demo.record import DemoRecord, Milestones, ObservedMessage
from chatlab.domain.trace import StageEvent

STAGE_DELAY_MS = 120  # between two stages that light up
DETAILS_MIN_COLUMNS = 110  # from this width on a stage also shows details
NAME_COLUMNS, STATE_COLUMNS = 10, 12  # left and right of a TTL bar
SWEEPER_LINES = 3
HEART_MS = 300  # how long the heart is red after a sweep
TITLES = {
    "create": "Create Message Object",
    "save": "Save to MongoDB",
    "cache_message": "Cache in Redis",
    "cache_conversation": "Update Conversation Cache",
    "emit": "Emit via Socket.io",
    "respond": "Response to Client",
}
REQUEST_TITLES = {"http": "HTTP POST Request", "socket": "WebSocket Event"}


def render_frame(record: DemoRecord, now_ms: float, width: int) -> RenderableType:
    """Return the frame at `now_ms` (since 1970): 22 lines, at any width from 80 columns on."""
    columns = Table.grid(expand=True)
    columns.add_column(ratio=1)
    columns.add_column(ratio=1)
    with_details = width >= DETAILS_MIN_COLUMNS
    columns.add_row(
        *(_stages(message, now_ms, with_details=with_details) for message in record.messages)
    )
    return Group(columns, _entries(record, now_ms, width), _sweeper(record, now_ms), _reads(record))


# --- the stages --------------------------------------------------------------------------------


def _stages(message: ObservedMessage, now_ms: float, *, with_details: bool) -> Panel:
    rows = Table.grid(expand=True)
    rows.add_column(no_wrap=True)
    if with_details:
        rows.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
    rows.add_column(justify="right", no_wrap=True)
    for stage in STAGES:
        rows.add_row(*_stage_row(message, stage, now_ms, with_details=with_details))
    title = Text.assemble(
        (message.transport_name, "bold"), f"  {message.sender} → {message.receiver}"
    )
    return Panel(
        rows, title=title, title_align="left", border_style="red" if message.error else "cyan"
    )


def _stage_row(
    message: ObservedMessage, stage: str, now_ms: float, *, with_details: bool
) -> list[RenderableType]:
    event, title = (
        message.stage_event(stage),
        TITLES.get(stage) or REQUEST_TITLES[message.transport],
    )
    is_lit = event is not None and now_ms >= _lit_at_ms(message, event)
    mark, style, colour = ("●", "bold", "green") if is_lit else ("○", "dim", "dim")
    details = [f" {_details(message, stage)}" if is_lit else ""] if with_details else []
    duration = f" {_duration(event)}" if event and is_lit else ""
    return [Text.assemble((f"{mark} ", colour), (title, style)), *details, Text(duration, colour)]


def _duration(event: StageEvent) -> str:
    return f"{event['tookMs']:.2f} ms" if event["tookMs"] < 100 else f"{event['tookMs']:.0f} ms"


def _lit_at_ms(message: ObservedMessage, event: StageEvent) -> float:
    """Return when a stage lights up: never before its event, and in turn after the first one."""
    turn_ms = float(message.stage_events[0]["at"]) + STAGES.index(event["stage"]) * STAGE_DELAY_MS
    return max(float(event["at"]), turn_ms)


def _details(message: ObservedMessage, stage: str) -> str:
    message_id = message.message_id
    return {
        "request": {"http": "/api/messages/send", "socket": "socket.sendMessage"}[
            message.transport
        ],
        "create": f"_id ..{message_id[-6:]}",
        "save": "majority, on disk",
        "cache_message": f"message:..{message_id[-6:]}",
        "cache_conversation": "messages:{}:{}".format(*sorted((message.sender, message.receiver))),
        "emit": "newMessage, to both",
        "respond": message.send_result.status if message.send_result else "",
    }[stage]


# --- the cache entries -------------------------------------------------------------------------


def _entries(record: DemoRecord, now_ms: float, width: int) -> Panel:
    milestones = record.milestones
    bar_width = max(20, width - 4 - NAME_COLUMNS - STATE_COLUMNS)
    rows = [_ttl_bar(message, milestones, now_ms, bar_width) for message in record.messages]
    times = [f"{seconds:g} s" for seconds in milestones]
    captions = ["cached", "still there", "expired", "cleaned"]
    axis = [
        Text(" " * NAME_COLUMNS + _axis(words, milestones, bar_width), "dim")
        for words in (times, captions)
    ]
    return Panel(
        Group(*rows, *axis),
        title=f"[bold]Cache entries in Redis[/bold]  TTL {milestones.expired_s:g} s",
        title_align="left",
        border_style="magenta",
    )


def _ttl_bar(message: ObservedMessage, milestones: Milestones, now_ms: float, width: int) -> Text:
    """Draw the time axis of one entry, from left to right.

    The time that is left of the TTL is filled, the time that has passed is a thin line. After the
    expiry dots follow until the sweeper logs it.
    """
    age_s = message.age_s(now_ms) if message.cached else -1.0
    bar = Text(f"{message.transport_name:<{NAME_COLUMNS}}", "bold", no_wrap=True)
    for column in range(width):
        bar.append(
            *_cell(message, milestones, age_s, milestones.cleaned_s * (column + 0.5) / width)
        )
    bar.append(f"{_state(message, milestones, age_s):>{STATE_COLUMNS}}", _colour(age_s, milestones))
    return bar


def _cell(
    message: ObservedMessage, milestones: Milestones, age_s: float, at_s: float
) -> tuple[str, str]:
    if age_s < 0 or (at_s > age_s and at_s > milestones.expired_s):
        return " ", ""
    if at_s <= milestones.expired_s:
        return ("█", _colour(age_s, milestones)) if at_s > age_s else ("─", "dim")
    dots_until_s = message.age_s(message.cleaned[0]["at"]) if message.cleaned else age_s
    return ("·", "red") if at_s <= dots_until_s else (" ", "")


def _colour(age_s: float, milestones: Milestones) -> str:
    if age_s < 0:
        return "dim"
    if age_s < milestones.still_cached_s:
        return "green"
    return "yellow" if age_s < milestones.expired_s else "red"


def _state(message: ObservedMessage, milestones: Milestones, age_s: float) -> str:
    if age_s < 0:
        return "not cached" if message.send_result else ""
    if message.cleaned:
        return f"cleaned {message.age_s(message.cleaned[0]['at']):.1f}s"
    return (
        f"{milestones.expired_s - age_s:.2f} s left" if age_s < milestones.expired_s else "expired"
    )


def _axis(words: Sequence[str], milestones: Milestones, width: int) -> str:
    """Place each word below its milestone; a word that would touch the next one is left out.

    The first word begins at its milestone, the others end there.
    """
    line, free_until = [" "] * width, width + 1
    for word, at_s in reversed(list(zip(words, milestones, strict=True))):
        end = max(len(word), round(at_s / milestones.cleaned_s * width))
        if end < free_until:
            line[end - len(word) : end], free_until = word, end - len(word)
    return "".join(line)


# --- the sweeper and the reads -----------------------------------------------------------------


def _sweeper(record: DemoRecord, now_ms: float) -> Panel:
    """Show the newest log lines, and a heart that is red for a moment after each sweep."""
    swept_just_now = bool(record.sweeps) and now_ms - record.sweeps[-1]["at"] < HEART_MS
    heart = Text("♥", "bold red" if swept_just_now else "dim")
    lines = [
        Text(line, "yellow" if "cleaned" in line else "", no_wrap=True, overflow="ellipsis")
        for line in record.sweeper_log[-SWEEPER_LINES:]
    ]
    lines += [Text("")] * (SWEEPER_LINES - len(lines))
    interval = f"  runs every {record.settings.sweep_interval:g} s  "
    title = Text.assemble(("Sweeper", "bold"), interval, heart, f" {len(record.sweeps)}")
    return Panel(Group(*lines), title=title, title_align="left", border_style="blue")


def _reads(record: DemoRecord) -> Text:
    line = Text(" GET", "bold", no_wrap=True, overflow="ellipsis")
    readings = [
        (f"after {message.transport_name}", message.read_result) for message in record.messages
    ]
    for when, reading in [*readings, ("after expiry", record.read_after_expiry)]:
        if reading:
            line.append(f"  {when}: ", "dim")
            line.append(
                f"{reading.cache} {reading.took_ms:.1f} ms",
                "green" if reading.cache == "hit" else "yellow",
            )
    return line
