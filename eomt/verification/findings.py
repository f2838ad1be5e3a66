"""What an audit finds, and its report: text for people, a dict for programs, an error to stop a run."""

from dataclasses import dataclass
from typing import Any, Literal

from eomt.errors import UserError

Severity = Literal["fault", "warning"]


class AuditError(UserError):
    """An audit found a fault: the training would not teach, or not save, what it should."""


@dataclass(frozen=True)
class Finding:
    """Something that an audit saw.

    Attributes:
        kind: Name of the finding, such as "not_called"; docs/audit.md explains each.
        where: Name of the module or tensor; "" for the whole.
        seen: What was seen, as the rest of a sentence that begins with `where`.
        remedy: What would mend it.
        severity: Whether it should stop a run.
    """

    kind: str
    where: str
    seen: str
    remedy: str = ""
    severity: Severity = "fault"

    def __str__(self) -> str:
        """Return it in one line."""
        sentence = f"{self.where!r} {self.seen}" if self.where else self.seen
        return f"{sentence}; {self.remedy}" if self.remedy else sentence

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "kind": self.kind,
            "where": self.where,
            "seen": self.seen,
            "remedy": self.remedy,
            "severity": self.severity,
        }
