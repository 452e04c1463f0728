"""What moves in a notebook (anywidget) and what asks (ipywidgets). `Lab` makes and feeds them; each is drawn in the browser.

Read them in this order:

    live.py      a drawing with a model, and what all of them have in common
    screen.py    what a session shows: one of each kind
    flow_map.py  the boxes that a message passes, and their source
    ttl_board.py each cached key and the time it has left
    timeline.py  the worker's beats, and the lives between them
    chat.py      two people's screens, through the real service
    stores.py    one message in MongoDB and in Redis, side by side
    chart.py     a measurement, while it is made
    asking.py    a question before it is tried
"""

from chatlab.lab.widgets.asking import Prediction, predict
from chatlab.lab.widgets.chart import Chart
from chatlab.lab.widgets.chat import Chat
from chatlab.lab.widgets.flow_map import FlowMap
from chatlab.lab.widgets.live import Live
from chatlab.lab.widgets.screen import Screen, screen_of
from chatlab.lab.widgets.stores import Stores
from chatlab.lab.widgets.timeline import Timeline
from chatlab.lab.widgets.ttl_board import TtlBoard

__all__ = ["Chart", "Chat", "FlowMap", "Live", "Prediction", "Screen", "Stores", "Timeline", "TtlBoard", "predict", "screen_of"]
