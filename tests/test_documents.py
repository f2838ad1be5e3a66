"""What README, LORA_README and the config headers say is true: their commands parse, their snippets run."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml

import eomt.tasks
from eomt.cli import CLI
from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import save_adapter
from eomt.lora.layers import lora_layers
from eomt.models import EoMT
from eomt.models.vit import ViT
from tests.tiny import make_eomt

ROOT = Path(__file__).parents[1]
README, GUIDE = ROOT / "README.md", ROOT / "LORA_README.md"
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
# what replaces a placeholder of the documents so that a command can be parsed
COMMANDS = re.compile(r"^\s*(?:\| .* \| `)?#? ?(python main\.py [^`\n]*)", re.MULTILINE)
# a row of LORA_README that will be true once this task or file is there
MISSING = re.compile(r" \(not in this version: ([\w./]+)\)")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def commands(path: Path) -> list[str]:
    return [match.strip() for match in COMMANDS.findall(path.read_text())]


def present_text(path: Path) -> str:
    """A document's prose: without blocks of code, other projects' names (first cells of rows), things yet to come."""
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not MISSING.search(line)]
    return "\n".join(re.split(r"(?<!\\)\|", line, maxsplit=2)[-1] if line.startswith("|") else line for line in lines)


def options(path: Path) -> set[str]:
    return set(re.findall(r"`(--[a-z][^`]*)`", present_text(path)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_starts_with_its_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert any(str(path.relative_to(ROOT)) in command for command in commands(path)), lines[0]


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> CLI:
    """Parses and checks a command as the program would, without building or running anything."""
    monkeypatch.setattr(CLI, "before_instantiate_classes", lambda self: None)
    monkeypatch.setattr(CLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(CLI, "after_instantiate_classes", lambda self: None)
    monkeypatch.setattr(CLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.chdir(ROOT)
    return CLI(shlex.split(command, comments=True)[2:])


@pytest.mark.parametrize(
    "command", sorted({command for path in [README, GUIDE, *CONFIGS] for command in commands(path)})
)
def test_a_command_of_the_documents_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--config" not in command or ".help" in command:
        # these take the configuration beside a checkpoint, or print help
        words = shlex.split(command, comments=True)
        rest = words[3:] if words[2] == "merge" else []
        command = shlex.join([*words[:3], "--config", "configs/quickstart/eomt.yaml", *rest])
    parse(command, monkeypatch)


@pytest.mark.parametrize("option", sorted(options(README) | options(GUIDE)))
def test_an_option_of_the_documents_exists(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ".help" in option:
        with pytest.raises(SystemExit) as stop:
            parse(f"python main.py fit {option}", monkeypatch)
        assert stop.value.code == 0
        return
    # it need not be one of every task
    refusals = []
    for config in (path for path in CONFIGS if path.parent == ROOT / "configs"):
        try:
            parse(f"python main.py fit --config {config} {option}", monkeypatch)
        except UserError as error:
            refusals.append(str(error))
        else:
            return
    pytest.fail("\n".join(refusals))


def test_commands_and_options_of_the_documents_were_found() -> None:
    assert len(commands(README)) >= 4
    assert len(options(README)) >= 6
    assert len(commands(GUIDE)) >= 4
    assert len(options(GUIDE)) >= 25


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ViT("test_vit", img_size=(96, 96), patch_size=8, pretrained=False)
    monkeypatch.chdir(ROOT)
    network = EoMT(encoder, num_classes=7, num_q=16, num_blocks=3, pretrained="configs/quickstart/eomt_base")
    apply_lora(network, LoRAConfig(target_modules=["attention"], freeze_base_model=True))
    save_adapter(network, tmp_path / "adapter")
    (code,) = blocks("README.md", "python")
    assert "runs/<run>/best_lora_<...>" in code
    names = {"images": torch.zeros(1, 3, 96, 96, dtype=torch.uint8)}
    exec(code.replace("runs/<run>/best_lora_<...>", str(tmp_path / "adapter")), names)
    assert names["class_logits"].shape == (1, 16, 8)


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    network = make_eomt()
    fresh = make_eomt()
    fresh.load_state_dict(network.state_dict())
    backbone = timm.create_model("test_vit", img_size=(32, 48), patch_size=8, num_classes=0)
    names = {"network": network, "fresh_network": fresh, "backbone": backbone}
    for code in blocks("LORA_README.md", "python"):
        exec(code, names)
    assert (tmp_path / "my_adapter" / "adapter_model.safetensors").is_file()
    assert lora_layers(network)
    assert names["merged"] is fresh
    assert not lora_layers(fresh)
    assert any("lora_A" in name for name, _ in names["model"].named_parameters())


def test_the_yaml_of_the_guide_is_a_config() -> None:
    (text,) = blocks("LORA_README.md", "yaml")
    LoRAConfig(**yaml.safe_load(text)["lora_config"]["init_args"])


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


def test_rows_are_marked_as_missing_while_their_task_or_file_is() -> None:
    missing = set(MISSING.findall(GUIDE.read_text()))
    there = {name for name in missing if hasattr(eomt.tasks, name) or (ROOT / name).exists()}
    assert not there, f"these are there now: strike their marks from {GUIDE.name}, and what else was said of them"


def test_names_and_files_that_the_guide_gives_exist() -> None:
    named = re.findall(r"`([^`]+)`", present_text(GUIDE))
    names = {name for name in named if re.fullmatch(r"(eomt|callbacks|datamodules)(\.\w+)+", name)}
    files = {name for name in named if re.fullmatch(r"[\w/]+\.(py|yaml)", name) and "/" in name}
    files |= set(re.findall(r"\]\((?!http|#)([^)]+)\)", GUIDE.read_text()))
    assert len(names) >= 20
    assert len(files) >= 8
    for name in sorted(names):
        resolve(name)
    assert not [name for name in files if not (ROOT / name).exists()]


def resolve(name: str) -> object:
    """The module, class, function or method of a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        holder, _, attribute = name.rpartition(".")
        return getattr(resolve(holder), attribute)


def test_links_inside_the_guide_lead_somewhere() -> None:
    text = GUIDE.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(links) >= 10
    assert links <= headings
