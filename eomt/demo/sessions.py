"""What is kept for each open page: of a few pages, and of each no more than one image."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from eomt.demo.uploads import Upload
from eomt.errors import UserError

MOST_SESSIONS = 32
# of the images of all pages; answers take some 30 bytes for each
MOST_PIXELS = 48_000_000
# answers and features of one image: of two models side by side
MOST_KEPT = 2


class Kept(OrderedDict[Any, Any]):
    """The newest few values; an older one makes room."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > MOST_KEPT:
            self.popitem(last=False)


@dataclass
class Session:
    """What is kept for an open page.

    Attributes:
        upload: Its image.
        folder: Of files that it offers.
        results: Answers about the image, by what was asked.
        features: What the encoders made of it, by the name of the model.
        prompts: What was clicked, for a page with prompts.
    """

    upload: Upload
    folder: Path
    results: Kept = field(default_factory=Kept)
    features: Kept = field(default_factory=Kept)
    prompts: Any = None


class Sessions:
    """The sessions of open pages; where there are too many, the one that rested longest is forgotten.

    Args:
        folder: Where the files of all of them are.
        most: How many are kept.
        most_pixels: Of their images together; the newest is kept whatever it has.
    """

    def __init__(self, folder: Path, most: int = MOST_SESSIONS, most_pixels: int = MOST_PIXELS) -> None:
        self.folder, self.most, self.most_pixels = folder, most, most_pixels
        self._held: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self._started = 0

    def start(self, key: str, upload: Upload) -> Session:
        """Return a new session with an image, in place of the one that the page had."""
        with self._lock:
            self._forget(key)
            # a key comes from outside, and names no folder
            self._started += 1
            found = self._held[key] = Session(upload, self.folder / str(self._started))
            while len(self._held) > 1 and (len(self._held) > self.most or self._pixels() > self.most_pixels):
                self._forget(next(iter(self._held)))
            return found

    def of(self, key: str) -> Session:
        """Return the session of a page.

        Raises:
            UserError: If it has none, or it was forgotten.
        """
        with self._lock:
            if key not in self._held:
                raise UserError("image: none is kept for this page; send one")
            self._held.move_to_end(key)
            return self._held[key]

    def forget(self, key: str) -> None:
        """Remove the session of a page, if it has one, and its files."""
        with self._lock:
            self._forget(key)

    def __len__(self) -> int:
        return len(self._held)

    def _pixels(self) -> int:
        return sum(session.upload.num_pixels for session in self._held.values())

    def _forget(self, key: str) -> None:
        found = self._held.pop(key, None)
        if found is not None:
            rmtree(found.folder, ignore_errors=True)
