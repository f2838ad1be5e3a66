"""Proofs: that adapters act and learn, that merged networks answer alike, what training needs in memory."""

from eomt.verification.audit import AuditReport, audit

__all__ = ["AuditReport", "audit"]
