"""How much may lie in the folder of a demo, and what goes first."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_BYTES = 200 * 2**20
MOST_FILES = 2000
# seconds in which a file is waited for: by a request in the queue, or by a browser
USED = 60


class Room:
    """A folder of bounded size: where it is full, the oldest files go that nobody waits for any more.

    A page has its image in memory, and what the browser shows it has fetched; whoever follows an old link sends or
    makes the file again.

    Args:
        folder: All of it, which nothing else uses.
        most_bytes: Of all files together.
        most_files: As many at most.
        used: Seconds after its last change in which a file stays.
    """

    def __init__(
        self, folder: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES, used: float = USED
    ) -> None:
        self.folder, self.most_bytes, self.most_files, self.used = folder, most_bytes, most_files, used
        # of what is on its way into the folder
        self._awaited = 0

    @contextmanager
    def awaiting(self, size: int) -> Iterator[None]:
        """Keep room for bytes that are on their way into the folder."""
        self._awaited += size
        try:
            yield
        finally:
            self._awaited -= size

    def has(self, size: int) -> bool:
        """Return whether there is room for more bytes; the oldest files that nobody waits for make room."""
        return self._make(self._awaited + size)

    def _make(self, size: int) -> bool:
        """Delete the oldest files until there is room, if that is possible."""
        files = sorted(self._files())
        total, count, youngest = sum(size for _, size, _ in files), len(files), time.time() - self.used
        for changed, bytes_, path in files:
            if (total + size <= self.most_bytes and count < self.most_files) or changed > youngest:
                break
            _delete(path)
            total, count = total - bytes_, count - 1
        return total + size <= self.most_bytes and count < self.most_files

    def _files(self) -> list[tuple[float, int, str]]:
        """Return when each file was changed, its size and its path."""
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    state = os.lstat(path)
                except FileNotFoundError:
                    # deleted between the two looks
                    continue
                found.append((state.st_mtime, state.st_size, path))
        return found


def _delete(path: str) -> None:
    try:
        os.remove(path)
        # each has a folder of its own, named by its content
        os.rmdir(os.path.dirname(path))
    except OSError:
        # deleted by another, or the folder has more
        pass
