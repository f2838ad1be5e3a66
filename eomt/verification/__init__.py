"""Proofs: adapters act and learn, merged networks answer as adapted ones do, training fits into memory."""

from eomt.verification.adapters import check_adapters
from eomt.verification.audit import AuditReport, audit

__all__ = ["AuditReport", "audit", "check_adapters"]
