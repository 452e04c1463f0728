"""Notebook 13 measures what is missing: which experiments share a session, and what an error ends."""

from collections import Counter
from pathlib import Path

import pytest

from chatlab.errors import EngineError
from chatlab.lab import Lab
from chatlab.lab.claims import DOCUMENT
from chatlab.lab.lessons.the_scorecard import SERIES, Experiment, Series, _measure_series
from chatlab.lab.user import User


def test_each_claim_has_one_experiment() -> None:
    """The experiments measure the claims of all notebooks, and no notebook twice."""
    measured = Counter(
        notebook
        for series in SERIES
        for experiment in series.experiments
        for notebook in experiment.notebooks
    )
    assert measured == dict.fromkeys({claim.notebook for claim in DOCUMENT}, 1)


@pytest.mark.slow
async def test_experiments_share_a_session_until_one_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error the next experiment has a new session. All have ended at the end."""
    monkeypatch.setenv("CHATLAB_DATA_DIR", str(tmp_path))
    sessions: list[Lab] = []
    done: list[int] = []

    async def look(lab: Lab, _alice: User, _bob: User) -> None:
        sessions.append(lab)

    async def stop(lab: Lab, _alice: User, _bob: User) -> None:
        sessions.append(lab)
        raise EngineError("The disk is full.")

    experiments = (
        Experiment(("00",), look),
        Experiment(("05",), stop),
        Experiment(("06", "07"), look),
    )
    stopped = await _measure_series("13_00", Series(experiments), lambda: done.append(1))
    assert stopped == ["The experiments of 05 stopped: The disk is full. Run this cell again."]
    assert len(done) == len(experiments)
    assert sessions[0] is sessions[1] is not sessions[2]
    assert not any(lab.service.is_running for lab in sessions)
