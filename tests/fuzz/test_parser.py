"""16.3: whatever a configuration beside weights holds, the command line parses it, or refuses it in one line."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings

from eomt.app.messages import as_user_error, one_line
from eomt.app.trust import with_saved_config
from eomt.cli import CLI
from tests.fuzz.model_files import config_values
from tests.fuzz.mutations import mutated_json

# a case takes half a second, in which jsonargparse builds the parsers of all classes that are named
CASES = 150


class ParsedError(Exception):
    """The end of parsing."""


class ParsedOnly(CLI):
    """The command line up to where something is built."""

    def before_instantiate_classes(self) -> None:
        """End here."""
        raise ParsedError


@pytest.mark.slow
def test_a_forged_configuration_is_parsed_or_refused_in_one_line(tmp_path: Path) -> None:
    file = config_values(tmp_path)
    args = ["validate", "--ckpt_path", str(file.parent)]
    with pytest.raises(ParsedError):
        ParsedOnly(with_saved_config(args))

    @settings(max_examples=CASES)
    @given(mutated_json(json.loads(file.read_text())))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                ParsedOnly(with_saved_config(args))
        except ParsedError:
            pass
        except Exception as error:
            refusal = as_user_error(error)
            if refusal is None:
                raise
            assert "\n" not in one_line(refusal)

    check()
