"""The doctor in a notebook: what a learner needs, and the command that installs what is missing."""

import html

from chatlab.run.doctor import Finding, diagnose
from chatlab.settings import SettingsError, load_settings

# a notebook's service picks a free port
NOT_NEEDED = ("test libraries", "browser for tests", "port")


class DoctorReport:
    """What is missing, and warnings, each with its fix.

    Lines that begin with a dot differ from machine to machine; output comparisons ignore them.
    """

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.missing = [finding for finding in findings if finding.ok is False]

    @property
    def headline(self) -> str:
        if not self.missing:
            return "Everything that the notebooks need is installed."
        return f"Missing: {', '.join(finding.area for finding in self.missing)}. Fix it, then run this cell again."

    @property
    def remarks(self) -> list[Finding]:
        return self.missing + [finding for finding in self.findings if finding.ok is None]

    def __repr__(self) -> str:
        rows = [
            f"· {_text(finding)}{f' -> {finding.fix}' if finding.fix else ''}"
            for finding in self.remarks
        ]
        return "\n".join([self.headline, *rows])

    def _repr_html_(self) -> str:
        rows = [
            f"· {html.escape(_text(finding))}{_fix_html(finding)}<br>" for finding in self.remarks
        ]
        return "\n".join([f"<b>{html.escape(self.headline)}</b><br>", *rows])


def _text(finding: Finding) -> str:
    return (
        finding.text if finding.text.startswith(finding.area) else f"{finding.area}: {finding.text}"
    )


def _fix_html(finding: Finding) -> str:
    return f" &rarr; <code>{html.escape(finding.fix)}</code>" if finding.fix else ""


def doctor() -> DoctorReport:
    """Check everything that a notebook needs."""
    try:
        # every notebook starts a Redis of its own, whatever CHATLAB_REDIS_URL says
        findings = diagnose(load_settings().model_copy(update={"redis_url": None}))
    except SettingsError as error:
        findings = [
            *diagnose(None),
            Finding("settings", False, str(error), "correct or unset the variable"),
        ]
    return DoctorReport([finding for finding in findings if finding.area not in NOT_NEEDED])
