"""Messages of errors: one line, whatever the user's files hold."""

from eomt.errors import MOST_CHARACTERS, UserError, listed, printable, shortened


def test_lists_in_messages_are_cut() -> None:
    """15.25: a file of 7 MB was printed as the names of its columns."""
    assert listed(["a", 2]) == "a, 2"
    assert listed([]) == "none"
    assert listed(range(1000), most=3) == "0, 1, 2, ... (1000 in all)"
    assert len(listed(["x" * 10**6] * 10**3)) < 600


def test_texts_are_cut_in_the_middle_to_just_the_length() -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(500))
    for most in (10, 11, 40, 499):
        short = shortened(text, most)
        assert len(short) == most
        start, _, end = short.partition("...")
        assert text.startswith(start)
        assert text.endswith(end)
    assert shortened(text, 500) == text


def test_no_error_is_longer_than_a_few_lines() -> None:
    message = str(UserError(f"train.csv: columns {'x' * 7 * 10**6}; must have image too"))
    assert len(message) == MOST_CHARACTERS
    assert message.startswith("train.csv: columns")
    assert message.endswith("; must have image too")
    assert str(UserError()) == ""


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert str(UserError("\x1b]0;owned\x07\x1b[2J.png: \u202egnp\x85 \udce9")) == (
        r"\x1b]0;owned\x07\x1b[2J.png: \u202egnp \udce9"
    )
    assert printable("a\nb") == r"a\nb"
    # what people write is left alone: accents, a narrow joiner of Persian, an emoji of four
    for text in ("café", "\u0645\u06cc\u200c\u062e", "👩‍👩‍👧‍👦", "a\u00a0b"):
        assert printable(text) == text


def test_the_message_of_a_worker_is_its_last_line() -> None:
    inner = UserError("a\nb.png: cannot be read")
    sent = f"Caught UserError in DataLoader worker process 0.\nTraceback:\n  File x\neomt.errors.UserError: {inner}\n"
    assert str(UserError(sent)) == "a b.png: cannot be read"
    # other lines are all kept
    assert str(UserError("config: two\n  lines")) == "config: two lines"
