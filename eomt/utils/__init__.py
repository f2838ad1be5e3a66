"""What every part of the package uses: files, the hub, processes, modes, the spelling of answers."""
