"""One of each: files, the hub, processes, modes, the spelling of answers."""
