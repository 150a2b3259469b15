"""Who may know whom, and what loads early."""

import ast
import subprocess
import sys
from pathlib import Path

import llm_expo

ROOT = Path(llm_expo.__file__).parent

# Every room and the rooms that it may import; cli and testing stand above all and are imported by nobody.
MAY_KNOW = {
    "errors": set(),
    "stats": set(),
    "records": {"errors"},
    "checkpoints": {"errors"},
    "cluster": {"errors"},
    "weights": {"errors", "stats", "checkpoints", "cluster"},
    "generation": {"errors", "stats", "records", "checkpoints", "weights", "cluster"},
    "training": {"errors", "records", "checkpoints", "weights"},
    "scoring": {"errors", "stats", "records", "cluster"},
    "search": {"errors", "stats", "checkpoints", "weights", "generation", "scoring"},
    "report": {"errors", "stats", "checkpoints", "weights", "generation", "scoring", "search"},
    "catalogue": {"errors"},
    "evaluation": {"errors", "stats", "records", "generation", "scoring"},
    "demo": {"errors"},
    "terminal": {"errors", "stats", "checkpoints", "weights", "generation", "scoring", "search", "report", "training"},
}
HEAVY = set(
    "torch transformers numpy scipy peft trl datasets rich psutil jinja2 safetensors vllm ray matplotlib "
    "huggingface_hub httpx2 openai yaml sklearn lm_eval".split()
)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("llm_expo.")} - {"__version__"}


def test_imports_run_one_way():
    for path in ROOT.rglob("*.py"):
        if room(path) in ("cli", "testing", "__init__"):
            continue
        beyond = imported_rooms(path) - MAY_KNOW[room(path)] - {room(path)}
        assert not beyond, f"{path.relative_to(ROOT)} imports {', '.join(sorted(beyond))}"


def test_nobody_imports_the_command_line():
    for path in ROOT.rglob("*.py"):
        assert room(path) == "cli" or "cli" not in imported_rooms(path), path


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sorted(sys.modules)), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_help_loads_nothing_heavy():
    help_ = "from llm_expo.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded_by(help_) & HEAVY
    assert not loaded_by(help_.replace("'--help'", "'search', '--help'")) & HEAVY


def test_the_package_itself_is_light():
    rooms = "weights generation scoring search training training.algorithms catalogue "
    rooms += "terminal terminal.weights terminal.search terminal.training "
    rooms += "evaluation evaluation.alpaca_eval.words evaluation.mt_bench.words evaluation.lm_eval.words "
    rooms += "evaluation.lm_eval.tasks evaluation.lm_eval.paired"
    imports = ", ".join(["llm_expo", *(f"llm_expo.{room}" for room in rooms.split())])
    assert not loaded_by(f"import {imports}") & (HEAVY - {"rich"})


def test_comparing_needs_no_torch(literal):
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    folders = [str(literal(header, bytes(8), name)) for name in ("a", "b", "c")]
    for folder in folders:
        (Path(folder) / "README.md").write_text("---\nbase_model: org/base\n---\n")
    command = f"from llm_expo.cli import main\nmain(['compare', *{folders!r}, '--plot', '{folders[0]}/../x.svg'])"
    assert loaded_by(command) & HEAVY <= {"rich", "yaml"}
