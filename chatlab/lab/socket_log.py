"""Keep one line of python-socketio's log out of the cells of a notebook.

Its clients print their errors on stderr, which a cell shows. One of them is that no ping of the
server came in time. That happens when a cell or a busy machine stops the event loop for more than
five seconds while a ping is due. It is no error of the learner: the session watches its service
again, and a cell that needs the lost connection says so (`sentences.py`). Other errors, such as
those of a learner's own handler, are still printed.
"""

import logging

CLIENT_LOG = "engineio.client"  # of all clients that have no logger of their own
NO_PING = "packet queue is empty, aborting"


def hide_missing_pings() -> None:
    """Do this for all clients of this process. A second call changes nothing."""
    logging.getLogger(CLIENT_LOG).addFilter(_is_no_missing_ping)


def _is_no_missing_ping(record: logging.LogRecord) -> bool:
    return record.msg != NO_PING
