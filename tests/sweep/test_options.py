"""Budgets, rates and grids as a command line gives them."""

import pytest

from eomt.errors import UserError
from eomt.sweep.options import Budget, names_of, rates_of
from eomt.sweep.settings import changed, parse_grid, value_at
from tests.sweep.made_up import make_config


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("30m", Budget(1800)),
        ("1.5h", Budget(5400)),
        ("90s", Budget(90)),
        ("2d", Budget(172800)),
        ("20", Budget(None, 20)),
    ],
)
def test_a_budget_is_a_time_or_a_number_of_trainings(text: str, budget: Budget) -> None:
    assert Budget.of_text(text) == budget


@pytest.mark.parametrize("text", ["", "soon", "0", "0m", "-5m", "1.5", "30 minutes", "m", "1e3"])
def test_no_budget_is_taken_for_one(text: str) -> None:
    with pytest.raises(UserError, match=r"budget: .* must be a time"):
        Budget.of_text(text)


def test_rates_are_numbers_in_order() -> None:
    assert rates_of("1e-3, 3e-4,1e-3") == (3e-4, 1e-3)
    assert names_of("heads, full") == ("heads", "full")
    for text in ("fast", "0", "-1e-3", "nan", "inf"):
        with pytest.raises(UserError, match="rates: "):
            rates_of(text)


def test_fields_are_found_by_their_address_and_changed_in_a_copy() -> None:
    config = make_config()
    other = changed(config, {"model.lora_config.rank": 16, "data.batch_size": 8, "model.network.num_q": 9})
    assert value_at(other, "model.lora_config.rank") == 16
    assert other["data"]["init_args"]["batch_size"] == 8
    assert other["model"]["init_args"]["network"]["init_args"]["num_q"] == 9
    assert config == make_config()


def test_a_grid_is_every_combination() -> None:
    found = parse_grid(
        ["model.lora_config.rank=4,8", "--data.batch_size=2", "trainer.callbacks=[a, b],null"], make_config()
    )
    assert len(found) == 4
    assert {"model.lora_config.rank": 8, "data.batch_size": 2, "trainer.callbacks": ["a", "b"]} in found
    assert {"model.lora_config.rank": 4, "data.batch_size": 2, "trainer.callbacks": None} in found


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("model.lora_config.rnak=4", "did you mean model.lora_config.rank"),
        ("modle.lr=4", "did you mean model"),
        ("model.lora_config.rank", "must be FIELD=VALUE,VALUE"),
        ("model.lora_config.rank=", "has no values"),
        ("model.lora_config.rank=[", "are no values"),
        ("model.lora_config.rank=2020-13-45", "are no values"),
        ("model.head_lr.x=1", "model.head_lr is null, and has no fields"),
    ],
)
def test_a_grid_of_what_is_not_there_is_refused(entry: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_grid([entry], make_config())
    assert message in str(error.value)
    assert len(str(error.value)) < 300


def test_a_field_stands_once_in_a_grid() -> None:
    with pytest.raises(UserError, match="stands there twice"):
        parse_grid(["data.batch_size=2", "data.batch_size=4"], make_config())


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_no_names_and_no_rates_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"ways: .* must be names of ways with commas"):
        names_of(text)
    with pytest.raises(UserError, match=r"rates: .* must be numbers above 0 with commas"):
        rates_of(text)
