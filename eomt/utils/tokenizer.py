"""Tokenizers of text models, from a folder or the hub, limited to the length that their model can take."""

from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from eomt.errors import UserError, first_line
from eomt.utils.hub import READING_ERRORS, Wanted, find_local, quiet

WANTED = Wanted(
    "tokenizer", "one in Hugging Face layout, or a repository", "--model.network.tokenizer", has_owner=False
)

# a folder of a tokenizer holds one of these; without any, transformers makes a tokenizer that knows no words
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.model"),
)
# for models that state no limit
DEFAULT_LENGTH = 512
# transformers' stand-in for "no limit known" is 1e30
UNKNOWN_LENGTH = 10**9
# models whose positions start after the number of the padding token
OFFSET_POSITIONS = frozenset(
    {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"),
        *("data2vec-text", "ibert", "xmod"),
    }
)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder or a repository on the hub, the fast one where there is one.

    It pads on the right. Its `model_max_length` is at most the number of positions of the text model beside it.

    Args:
        source: Path of a folder, or name of a repository.

    Raises:
        UserError: If there is none, it cannot be read, a package is missing, or it has no padding token.
    """
    folder = find_local(source, WANTED)
    place = str(folder or source)
    if folder is not None and not holds_tokenizer(folder):
        raise UserError(f"tokenizer: {source} holds no tokenizer (such as {TOKENIZER_FILES[0]}); give a folder of one")
    try:
        with quiet():
            # null would ask on the terminal whether code of others may run
            tokenizer = AutoTokenizer.from_pretrained(place, padding_side="right", trust_remote_code=False)
    # the library in Rust below raises bare exceptions
    except Exception as error:
        if "sentencepiece" in str(error).lower():
            raise UserError(
                f"tokenizer: {source} needs a package that is missing; pip install sentencepiece"
            ) from error
        raise UserError(
            f"tokenizer: {source} cannot be read ({first_line(error)}); give another folder or repository"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"tokenizer: {source} knows no words; give the folder of a tokenizer with its vocabulary")
    if tokenizer.pad_token_id is None:
        raise UserError(f"tokenizer: {source} has no padding token (pad_token); give the tokenizer of a text encoder")
    limits = [limit for limit in (tokenizer.model_max_length, _positions_beside(place)) if limit is not None]
    limit = min(limits)
    tokenizer.model_max_length = int(limit) if limit < UNKNOWN_LENGTH else DEFAULT_LENGTH
    return tokenizer


def holds_tokenizer(folder: str | Path) -> bool:
    """Return whether a local folder holds a tokenizer."""
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


def usable_positions(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a text model can take; None if there is no limit."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    if text.model_type in OFFSET_POSITIONS:
        positions -= text.pad_token_id + 1
    return positions


def _positions_beside(place: str) -> int | None:
    """Return how many tokens the model beside a tokenizer can take; None if there is no model, or no limit."""
    try:
        with quiet():
            return usable_positions(AutoConfig.from_pretrained(place, trust_remote_code=False))
    except READING_ERRORS:
        return None
