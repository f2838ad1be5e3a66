"""Proofs: adapters act and learn, merged networks answer as adapted ones do, training fits into memory."""

from eomt.verification.adapters import check_adapters
from eomt.verification.audit import audit
from eomt.verification.findings import AuditError, AuditReport, Finding

__all__ = ["AuditError", "AuditReport", "Finding", "audit", "check_adapters"]
