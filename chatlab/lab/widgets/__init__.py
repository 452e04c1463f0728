"""The widgets of the notebooks: live drawings (anywidget) and questions (ipywidgets).

`Lab` creates the live widgets and sends them data. The browser draws them. Read them in this order:

    live.py       a drawing with a model: what all live widgets have in common
    screen.py     the widgets that a session shows: one of each kind
    flow_map.py   the stages that a message passes, and their source
    ttl_board.py  each cached key and the time it has left
    timeline.py   the sweeps, and the lifetimes of keys between them
    chat.py       the screens of two users, connected to the real service
    stores.py     one message in MongoDB and in Redis, side by side
    chart.py      a measurement while it runs
    prediction.py a prediction before an experiment
    replay.py     one send as the page /lab tells it, until its key has been cleaned
    end_report.py the end of a session, and a button that stops the kernel
"""

from chatlab.lab.widgets.chart import Chart
from chatlab.lab.widgets.chat import Chat
from chatlab.lab.widgets.end_report import EndReport
from chatlab.lab.widgets.flow_map import FlowMap
from chatlab.lab.widgets.live import Live
from chatlab.lab.widgets.prediction import Prediction, predict
from chatlab.lab.widgets.replay import Replay
from chatlab.lab.widgets.screen import Screen, screen_of
from chatlab.lab.widgets.stores import Stores
from chatlab.lab.widgets.timeline import Timeline
from chatlab.lab.widgets.ttl_board import TtlBoard

__all__ = [
    "Chart",
    "Chat",
    "EndReport",
    "FlowMap",
    "Live",
    "Prediction",
    "Replay",
    "Screen",
    "Stores",
    "Timeline",
    "TtlBoard",
    "predict",
    "screen_of",
]
