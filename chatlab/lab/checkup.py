"""The doctor in a notebook: what a learner needs, and the command that installs what is missing."""

import html

from chatlab.run.doctor import Finding, diagnose
from chatlab.settings import SettingsError, load_settings

# a notebook's service picks a free port
NOT_NEEDED = ("test libraries", "browser for tests", "port")


class Checkup:
    """What is missing, and warnings, each with its fix.

    Lines that begin with a dot differ from machine to machine; output comparisons ignore them.
    """

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.missing = [finding for finding in findings if finding.ok is False]

    @property
    def headline(self) -> str:
        if not self.missing:
            return "Everything that the notebooks need is here."
        return f"Missing: {', '.join(finding.area for finding in self.missing)}. Mend it, then run this cell again."

    @property
    def remarks(self) -> list[Finding]:
        return self.missing + [finding for finding in self.findings if finding.ok is None]

    def __repr__(self) -> str:
        return "\n".join(
            [
                self.headline,
                *(
                    f"· {_told(finding)}{f' -> {finding.fix}' if finding.fix else ''}"
                    for finding in self.remarks
                ),
            ]
        )

    def _repr_html_(self) -> str:
        rows = [f"· {html.escape(_told(finding))}{_mend(finding)}<br>" for finding in self.remarks]
        return "\n".join([f"<b>{html.escape(self.headline)}</b><br>", *rows])


def _told(finding: Finding) -> str:
    return (
        finding.text if finding.text.startswith(finding.area) else f"{finding.area}: {finding.text}"
    )


def _mend(finding: Finding) -> str:
    return f" &rarr; <code>{html.escape(finding.fix)}</code>" if finding.fix else ""


def doctor() -> Checkup:
    """Check everything that a notebook needs."""
    try:
        findings = diagnose(load_settings())
    except SettingsError as wrong:
        findings = [
            *diagnose(None),
            Finding("settings", False, str(wrong), "correct or unset the variable"),
        ]
    return Checkup([finding for finding in findings if finding.area not in NOT_NEEDED])
