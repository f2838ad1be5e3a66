"""What a folder holds, which data module reads it, and what looks odd in it."""
