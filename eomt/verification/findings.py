"""What an audit finds, and its report: text for people, a dict for programs, an error to stop a run."""

import json
import logging
from dataclasses import dataclass
from typing import Any, Literal

from eomt.errors import UserError

Severity = Literal["fault", "warning"]

log = logging.getLogger("eomt")


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
        part: Name of the tensor in `where` that is meant, such as lora_b; "" for all of it.
    """

    kind: str
    where: str
    seen: str
    remedy: str = ""
    severity: Severity = "fault"
    part: str = ""

    def __str__(self) -> str:
        """Return it in one line."""
        subject = f"{self.part} of {self.where!r}" if self.part else repr(self.where) if self.where else ""
        gap = "" if not subject or self.seen.startswith(",") else " "
        sentence = f"{subject}{gap}{self.seen}"
        return f"{sentence}; {self.remedy}" if self.remedy else sentence

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "kind": self.kind,
            "where": self.where,
            "part": self.part,
            "seen": self.seen,
            "remedy": self.remedy,
            "severity": self.severity,
        }


def named_part(path: str, names: list[str]) -> str:
    """Return what is named for the tensors of a module: its path, or the first tensor's where the path says nothing.

    Args:
        path: Of the module, which may be the model itself, or what PEFT puts around it.
        names: Of its tensors.
    """
    return names[0] if path == "" or f".{path}".endswith(".base_model.model") else path


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        findings: What was found, faults and warnings.
        adapters: Paths of the adapted layers.
        trained_in_full: Paths of the modules that are trained in full beside the adapters.
        experts: Paths of modules of which a router calls a few.
    """

    findings: tuple[Finding, ...] = ()
    adapters: tuple[str, ...] = ()
    trained_in_full: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """A sentence for each fault."""
        return tuple(str(finding) for finding in self.findings if finding.severity == "fault")

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each finding that should not stop a run."""
        return tuple(str(finding) for finding in self.findings if finding.severity == "warning")

    @property
    def is_sound(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    @property
    def status(self) -> int:
        """Exit status of a program that audits: 0 without faults, else 1."""
        return 0 if self.is_sound else 1

    def __str__(self) -> str:
        """Return the result in one line."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            return self.faults[0] + more
        parts = [f"all {len(self.adapters)} adapters act and learn"] if self.adapters else []
        if self.trained_in_full:
            names = ", ".join(self.trained_in_full)
            parts.append(f"{len(self.trained_in_full)} modules trained in full learn ({names})")
        return "; ".join(parts) or "every parameter is trained"

    def describe(self) -> str:
        """Return the result in a line for each finding, with its kind."""
        lines = [f"{finding.severity}: {finding.kind}: {finding}" for finding in self.findings]
        return "\n".join(lines if self.faults else [str(self), *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "sound": self.is_sound,
            "verdict": str(self),
            "findings": [finding.to_dict() for finding in self.findings],
            "adapters": list(self.adapters),
            "trained_in_full": list(self.trained_in_full),
        }

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def require(self, warn: bool = False) -> None:
        """Stop if there are faults.

        Args:
            warn: Log a warning in place of the error.

        Raises:
            AuditError: If there are; the message has the first one and how many more there are.
        """
        if not self.faults:
            return
        if not warn:
            raise AuditError(f"audit: {self}")
        log.warning("Audit: %s", self)
