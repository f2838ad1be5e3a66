"""Tables and files of what was measured."""
