"""What came of runs, read from their files: tables for a terminal, and pages for a browser."""
