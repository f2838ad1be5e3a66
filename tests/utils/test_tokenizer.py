"""Tokenizers: how long a question may be, padding, and what is refused."""

import json
import unicodedata
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from eomt.errors import UserError
from eomt.models.parts.text_tower import make_text_tower
from eomt.utils.tokenizer import DEFAULT_LENGTH, load_tokenizer, usable_positions
from tests.tiny_vqa import BART, BERT, MAX_LENGTH, make_tokenizer

SENTINEL = 10**30


def set_field(folder: Path, name: str, value: object) -> None:
    file = folder / "tokenizer_config.json"
    fields = json.loads(file.read_text()) | {name: value}
    file.write_text(json.dumps(fields))


def set_config(folder: Path, fields: dict) -> None:
    (folder / "config.json").write_text(json.dumps(fields))


def test_code_beside_a_tokenizer_is_neither_run_nor_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer")
    set_field(folder, "auto_map", {"AutoTokenizer": ["theirs.T", None]})
    set_field(folder, "tokenizer_class", "T")
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\nclass T:\n    pass\n")
    # whoever is asked says yes
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match=r"tokenizer: .* cannot be read"):
        load_tokenizer(str(folder))
    assert not (tmp_path / "trace").exists()


def test_a_folder_gives_a_fast_tokenizer_that_pads_on_the_right(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer")
    set_field(folder, "padding_side", "left")
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == MAX_LENGTH
    batch = tokenizer(["what colour is the circle?", "red"], padding=True)
    assert batch["attention_mask"][1] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "what colour is the circle ?"


@pytest.mark.parametrize(
    ("stated", "config", "expected"),
    [
        (SENTINEL, BERT | {"max_position_embeddings": 40}, 40),
        # positions of RoBERTa start after the padding token's number, those of BART are two more than it says
        (SENTINEL, BERT | {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        (514, BERT | {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        (SENTINEL, BART | {"max_position_embeddings": 30}, 30),
        (20, BART | {"max_position_embeddings": 30}, 20),
        (SENTINEL, {"model_type": "clip", "text_config": {"max_position_embeddings": 77}}, 77),
        (SENTINEL, {"model_type": "nonsense"}, DEFAULT_LENGTH),
        (SENTINEL, None, DEFAULT_LENGTH),
        (70, None, 70),
    ],
)
def test_the_longest_question_is_what_the_positions_can_take(
    tmp_path: Path, stated: int, config: dict | None, expected: int
) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer")
    set_field(folder, "model_max_length", stated)
    if config is not None:
        set_config(folder, config)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.model_max_length == expected
    tokenizer.save_pretrained(tmp_path / "copy")
    assert load_tokenizer(str(tmp_path / "copy")).model_max_length == expected


@pytest.mark.parametrize("family", ["bert", "roberta", "bart", "mpnet", "distilbert"])
def test_a_model_takes_exactly_so_many_tokens(family: str) -> None:
    fields = (BART if family == "bart" else BERT) | {"model_type": family, "max_position_embeddings": 12}
    if family == "distilbert":
        fields = {"model_type": family, "dim": 32, "hidden_dim": 32, "n_heads": 2, "n_layers": 1, "vocab_size": 19}
        fields["max_position_embeddings"] = 12
    limit = usable_positions(AutoConfig.for_model(**fields))
    assert limit is not None
    model = make_text_tower(fields, False, "classification").eval()
    with torch.no_grad():
        assert model(input_ids=torch.full((1, limit), 5)).last_hidden_state.shape == (1, limit, 32)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_vietnamese_is_tokenized_alike_however_it_is_composed(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(make_tokenizer(tmp_path / "tokenizer")))
    tokenizer.add_tokens(["màu"])
    composed = tokenizer("what màu")["input_ids"]
    assert composed == tokenizer(unicodedata.normalize("NFC", unicodedata.normalize("NFD", "what màu")))["input_ids"]
    assert tokenizer.decode(composed, skip_special_tokens=True) == "what màu"


def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    model_alone = tmp_path / "model"
    model_alone.mkdir()
    # of such a folder transformers makes a tokenizer of five special tokens
    set_config(model_alone, BART)
    damaged = make_tokenizer(tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text("{")
    no_padding = make_tokenizer(tmp_path / "no_padding")
    set_field(no_padding, "pad_token", None)
    wordless = tmp_path / "wordless"
    wordless.mkdir()
    set_config(wordless, BART)
    (wordless / "tokenizer_config.json").write_text("{}")
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartphoTokenizer"}))
    (slow / "sentencepiece.bpe.model").write_bytes(b"x")
    (slow / "dict.txt").write_text("a 1\n")
    set_config(slow, {"model_type": "mbart"})
    for source, message in (
        (model_alone, f"tokenizer: {model_alone} holds no tokenizer"),
        (damaged, "cannot be read"),
        (no_padding, "has no padding token"),
        (wordless, "knows no words"),
        (slow, "sentencepiece|cannot be read"),
        (tmp_path / "nothing", "is no folder"),
        ("vinai/not-in-the-cache", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_tokenizer(str(source))
        assert "\n" not in str(error.value)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    try:
        import sentencepiece  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("sentencepiece is installed")
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartphoTokenizer"}))
    (folder / "sentencepiece.bpe.model").write_bytes(b"x")
    with pytest.raises(UserError, match="pip install sentencepiece"):
        load_tokenizer(str(folder))
