"""What the documents and the config headers say is true: their commands parse, their snippets run."""

import functools
import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import timm
import torch
import yaml

import eomt.tasks
from datamodules import compute_answer_weights
from eomt.app.arguments import FLAGS, SMALL_COMMANDS, in_order
from eomt.app.launching import OPTIONS, launch_of
from eomt.app.small_commands import make_parser
from eomt.app.sweep_settings import SWEEP_FIELDS
from eomt.cli import CLI
from eomt.errors import UserError
from eomt.export.options import EXPORT_FIELDS
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import save_adapter
from eomt.lora.layers import lora_layers
from eomt.models import EoMT
from eomt.models.vit import ViT
from tests import documents
from tests.documents import CONFIGS, DOCUMENTS, GUIDE, MISSING, NAMES, PAGES, README, ROOT
from tests.tiny import make_eomt, make_image

RUNS = ROOT / "docs" / "runs.md"
# run by tests/verification/test_audit_document.py
AUDIT = ROOT / "docs" / "audit.md"
USE = ROOT / "docs" / "use.md"
# options that fit has not
OF_COMMANDS = {
    "--output": "merge",
    "--gpu": "inspect",
    "--data.predict": "predict",
    "--host": "demo",
    "--port": "demo",
    **dict.fromkeys((f"--{name}" for name in SWEEP_FIELDS), "sweep"),
}
# run by tests/export/test_command.py
EXPORT = ROOT / "docs" / "export.md"
JOBS = [config for config in CONFIGS if config.parent == ROOT / "configs"]


@functools.cache
def command_line(command: str = "fit") -> CLI:
    """Return the program, with a parser that need not be built again, and nothing built or run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("before_instantiate_classes", "instantiate_classes", "after_instantiate_classes"):
            patch.setattr(CLI, name, lambda self: None)
        patch.setattr(CLI, "_run_subcommand", lambda self, subcommand: None)
        patch.chdir(ROOT)
        return CLI([command, "--config", "configs/quickstart/eomt.yaml"])


def parse(command: str) -> None:
    """Parse and check a command as the program would, without building or running anything."""
    _, given = launch_of(shlex.split(command, comments=True)[2:])
    words = in_order(given)
    program = command_line(words[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        program.parse_arguments(program.parser, words)


@functools.cache
def fields(config: Path) -> frozenset[str]:
    """Return the fields of a config as options call them: `model.network.num_q`."""
    parse(f"python main.py fit --config {config}")
    return frozenset(name.replace(".init_args", "") for name, _ in command_line().config.fit.items())


def parse_with_some_config(words: list[str]) -> None:
    """Parse a command that goes with one config or another: it need not be one of every task."""
    named = {word.removeprefix("--") for word in words if word.startswith("--")}
    refusals = []
    for config in sorted(JOBS, key=lambda config: len(named - fields(config))):
        try:
            parse(shlex.join([*words[:3], "--config", str(config), *words[3:]]))
        except UserError as error:
            refusals.append(str(error))
        else:
            return
    pytest.fail("\n".join(refusals))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_starts_with_its_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert any(str(path.relative_to(ROOT)) in command for command in documents.commands(path)), lines[0]


@pytest.mark.parametrize(
    "command",
    # those of the task that CONTRIBUTING adds are run, in tests/test_contributing.py
    sorted({line for path in [*DOCUMENTS, *CONFIGS] for line in documents.commands(path) if "brightness/" not in line}),
)
def test_a_command_of_the_documents_parses(command: str) -> None:
    if (words := shlex.split(command, comments=True)[2:])[0] in SMALL_COMMANDS:
        make_parser().parse_args(words)
    elif ".help" in command or "--print_config" in command:
        with pytest.raises(SystemExit) as stop:
            parse(command)
        assert stop.value.code == 0
    elif "--config" in command:
        parse(command)
    else:
        # it takes the configuration beside a checkpoint
        parse_with_some_config(shlex.split(command, comments=True))


@pytest.mark.parametrize("option", sorted({option for path in DOCUMENTS for option in documents.options(path)}))
def test_an_option_of_the_documents_exists(option: str) -> None:
    if option == "--help" or ".help" in option:
        with pytest.raises(SystemExit) as stop:
            parse(f"python main.py fit {option}")
        assert stop.value.code == 0
        return
    if option.startswith("--config "):
        # a file of the reader's
        return
    if option.startswith("--dry_run "):
        make_parser().parse_args(["push", "PATH", "NAME", *option.split()])
        return
    if option in FLAGS:
        parse_with_some_config(shlex.split(f"python main.py sweep {option}"))
        return
    if option in OPTIONS:
        return
    if option.removeprefix("--") in SWEEP_FIELDS:
        assert f"sweep.{option.removeprefix('--')}" in command_line("sweep").config
        return
    if " " not in option:
        assert any(option.removeprefix("--") in fields(config) for config in JOBS)
        return
    commands = dict.fromkeys((f"--{name}" for name in EXPORT_FIELDS), "export")
    of_export = commands.get(option.split()[0], "fit")
    command = next((name for start, name in OF_COMMANDS.items() if option.startswith(start)), of_export)
    parse_with_some_config(shlex.split(f"python main.py {command} {option}"))


def test_commands_and_options_of_the_documents_were_found() -> None:
    moved = [README, *PAGES]
    assert len(documents.commands(README)) >= 4
    assert len({option for path in moved for option in documents.options(path)}) >= 60
    assert len({command for path in moved for command in documents.commands(path)}) >= 30
    assert len(documents.commands(GUIDE)) >= 4
    assert len(documents.options(GUIDE) | documents.options(NAMES)) >= 25


def test_commands_of_the_documents_that_make_no_run_parse() -> None:
    found = [words for path in DOCUMENTS for words in documents.small_commands(path)]
    assert len({words[0] for words in found}) == 3
    for words in found:
        if words != ["--version"]:
            make_parser().parse_args(words)


def test_modules_that_the_documents_run_are_there() -> None:
    found = [words for path in [*DOCUMENTS, *CONFIGS] for words in documents.module_commands(path)]
    assert len(found) >= 10
    for module, *arguments in found:
        assert importlib.util.find_spec(module), module
        if module == compute_answer_weights.__name__:
            compute_answer_weights._parser().parse_args(arguments)


def test_targets_of_make_and_extras_of_the_package_exist() -> None:
    text = "\n".join(documents.text_of(path) for path in DOCUMENTS)
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert {"quickstart", "test", "lint"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    extras = {name for names in re.findall(r"pip install -e '\.\[([\w,]+)\]'", text) for name in names.split(",")}
    assert extras
    assert extras <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_python_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ViT("test_vit", img_size=(96, 96), patch_size=8, pretrained=False)
    monkeypatch.chdir(ROOT)
    network = EoMT(encoder, num_classes=7, num_q=16, num_blocks=3, pretrained="configs/quickstart/eomt_base")
    apply_lora(network, LoRAConfig(target_modules=["attention"], freeze_base_model=True))
    save_adapter(network, tmp_path / "adapter")
    opened, adapted = documents.blocks(RUNS, "python")
    assert "runs/<run>/best_lora_<...>" in opened
    names = {"images": torch.zeros(1, 3, 96, 96, dtype=torch.uint8)}
    exec(opened.replace("runs/<run>/best_lora_<...>", str(tmp_path / "adapter")), names)
    assert names["class_logits"].shape == (1, 16, 8)
    monkeypatch.chdir(tmp_path)
    backbone = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=0)
    names = {"backbone": backbone, "images": torch.rand(2, 3, 32, 32)}
    exec(adapted, names)
    assert names["report"].is_sound
    assert (tmp_path / "my_adapter" / "adapter_model.safetensors").is_file()
    assert not lora_layers(names["merged"])


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    network = make_eomt()
    fresh = make_eomt()
    fresh.load_state_dict(network.state_dict())
    backbone = timm.create_model("test_vit", img_size=(32, 48), patch_size=8, num_classes=0)
    names = {"network": network, "fresh_network": fresh, "backbone": backbone, "batch": make_image()}
    for code in documents.blocks(GUIDE, "python"):
        exec(code, names)
    assert (tmp_path / "my_adapter" / "adapter_model.safetensors").is_file()
    assert lora_layers(network)
    assert names["merged"] is fresh
    assert not lora_layers(fresh)
    assert any("lora_A" in name for name, _ in names["model"].named_parameters())


def test_no_python_of_the_documents_is_left_out() -> None:
    others = [path for path in DOCUMENTS if path not in (RUNS, GUIDE, AUDIT, USE, EXPORT, documents.CONTRIBUTING)]
    assert not [path.name for path in others if documents.blocks(path, "python")]


def test_the_yaml_of_the_guide_is_a_config() -> None:
    (text,) = documents.blocks(GUIDE, "yaml")
    LoRAConfig(**yaml.safe_load(text)["lora_config"]["init_args"])


def test_the_yaml_of_the_pages_is_a_config(tmp_path: Path) -> None:
    found = [text for path in [README, *PAGES] for text in documents.blocks(path, "yaml")]
    assert found
    for text in found:
        (tmp_path / "page.yaml").write_text(text)
        parse(f"python main.py fit --config {tmp_path / 'page.yaml'}")


def test_the_guide_has_a_row_for_every_field_with_its_default() -> None:
    rows = {}
    for line in GUIDE.read_text().splitlines():
        if re.match(r"\| `\w+`(, `\w+`)* \| [^|]+ \|[^|]+\|[^|]+\|$", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells[1])
    defaults = vars(LoRAConfig())
    assert set(rows) == set(defaults)
    words = {"none": ([], {}), "all": (None,), "true": (True,), "false": (False,)}
    for name, default in defaults.items():
        said = rows[name].strip("`")
        assert default in words.get(said, (yaml.safe_load(said),)), name


def test_the_guide_recommends_what_the_config_does() -> None:
    text = GUIDE.read_text()
    rows = {999: "below 1,000", 1000: "1,000 to 5,000", 5000: "1,000 to 5,000", 5001: "above 5,000"}
    for images, row in rows.items():
        config = LoRAConfig.recommended(images)
        scale = config.lora_alpha / config.rank
        assert f"| {row} | {config.rank} | {config.lora_alpha} | {scale:g} |" in text


def test_messages_that_the_guide_explains_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text() for room in ("eomt", "callbacks") for path in (ROOT / room).rglob("*.py"))
    table = GUIDE.read_text().split("\n## When something is wrong\n")[1]
    quoted = re.findall(r"^\| `([^`]+ [^`]+)` \|", table, re.MULTILINE)
    assert len(quoted) >= 14
    for message in quoted:
        # what stands between names and numbers
        parts = re.split(r"\.\.\.|'[^']*'|\w+: \d+", message)
        assert max(parts, key=len).strip(" ;:") in code, message


def test_rows_are_marked_as_missing_while_their_task_or_file_is() -> None:
    for path in DOCUMENTS:
        missing = set(MISSING.findall(path.read_text()))
        there = {name for name in missing if hasattr(eomt.tasks, name) or (ROOT / name).exists()}
        assert not there, f"these are there now: strike their marks from {path.name}, and what else was said of them"


def test_names_and_files_that_the_documents_give_exist() -> None:
    named = {name for path in DOCUMENTS for name in documents.names(path)}
    files = {file for path in DOCUMENTS for file in documents.files(path) if not file.startswith("brightness/")}
    assert len(documents.names(GUIDE) | documents.names(NAMES)) >= 20
    assert len(documents.files(GUIDE) | documents.files(NAMES)) >= 8
    for name in sorted(named):
        resolve(name)
    assert not [name for name in files if not (ROOT / name).exists()]


def resolve(name: str) -> object:
    """Return the module, class, function or method of a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        holder, _, attribute = name.rpartition(".")
        return getattr(resolve(holder), attribute)


@pytest.mark.parametrize("path", [*DOCUMENTS, documents.CHANGELOG], ids=lambda path: path.stem)
def test_links_of_a_document_lead_somewhere(path: Path) -> None:
    for link in documents.links(path):
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if heading:
            assert heading in documents.anchors(target), link


def test_links_of_the_documents_were_found() -> None:
    assert len([link for link in documents.links(GUIDE) if link.startswith("#")]) >= 10
    assert len({link for path in DOCUMENTS for link in documents.links(path)}) >= 60


def test_every_page_is_in_the_index() -> None:
    index = documents.links(ROOT / "docs" / "README.md")
    assert {path.name for path in PAGES} - {"README.md"} <= index
