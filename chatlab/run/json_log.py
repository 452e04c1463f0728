"""Log lines as JSON objects, for programs that collect logs."""

import json
import logging
from datetime import UTC, datetime

from chatlab.domain.message import rfc3339
from chatlab.server_urls import redact
from chatlab.web.request_log import REQUEST_ID


class JsonFormatter(logging.Formatter):
    """One object for each line: `date`, `level`, `logger`, `pid`, `message`.

    It has `requestId` within a request, and `exception` with a traceback. `fields` of a record are
    added too; the access log uses them.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "date": rfc3339(datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": redact(record.getMessage()),
        }
        if request_id := REQUEST_ID.get():
            line["requestId"] = request_id
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line | getattr(record, "fields", {}))
