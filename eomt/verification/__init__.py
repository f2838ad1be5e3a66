"""Proofs: that adapters act and learn, that merged networks answer alike, what training needs in memory."""
