"""A file that is being sent: looked at while it arrives, before Gradio stores anything of it."""

from typing import Any

from eomt.demo.uploads import BEGINNING, begins_like_image

NO_FILE, NO_IMAGE = 400, 415


class Arriving:
    """A request in multipart/form-data, which may hold one image and nothing else.

    Attributes:
        status: With which it is refused; None as long as it is not.

    Args:
        content_type: The header that names the boundary between its parts.
    """

    def __init__(self, content_type: bytes) -> None:
        # that which Gradio has: two that read differently could be told different things
        from python_multipart.multipart import MultipartParser, parse_options_header

        self._options = parse_options_header
        kind, options = parse_options_header(content_type)
        self.status: int | None = None
        self._parts, self._start, self._is_file = 0, b"", False
        self._name, self._value = b"", b""
        self._parser: Any = None
        if kind != b"multipart/form-data" or b"boundary" not in options:
            self.status = NO_FILE
            return
        names = ("part_begin", "header_field", "header_value", "header_end", "part_data", "part_end")
        calls: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        self._parser = MultipartParser(options[b"boundary"], calls)

    def write(self, data: bytes) -> None:
        """Look at what has arrived."""
        from python_multipart.exceptions import MultipartParseError

        if self.status is None:
            try:
                self._parser.write(data)
            except MultipartParseError:
                self._refuse(NO_FILE)

    def end(self) -> None:
        """Refuse what held no file."""
        if self._parts == 0:
            self._refuse(NO_FILE)

    def _refuse(self, status: int) -> None:
        self.status = self.status or status

    def _part_begin(self) -> None:
        self._parts += 1
        self._start, self._is_file = b"", False
        if self._parts > 1:
            self._refuse(NO_FILE)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            _, options = self._options(self._value)
            self._is_file = options.get(b"name") == b"files" and b"filename" in options
        self._name, self._value = b"", b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if len(self._start) < BEGINNING:
            self._start += data[start : min(end, start + BEGINNING)]
            if len(self._start) >= BEGINNING:
                self._check()

    def _part_end(self) -> None:
        self._check()

    def _check(self) -> None:
        if not self._is_file:
            self._refuse(NO_FILE)
        elif not begins_like_image(self._start):
            self._refuse(NO_IMAGE)
