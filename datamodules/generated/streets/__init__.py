"""Streets by day and by night, and things that do not belong there."""
