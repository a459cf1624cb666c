"""The house rules that a machine can check: layers, sizes, line lengths and names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter import api
from importlinter.application.use_cases import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "actial"
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
COMMANDS += sorted(PACKAGE.glob("*/__main__.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
VAGUE_NAMES = {"found", "known", "kept", "shown", "told", "asked", "facts"}


def code_lines(paths: list[Path]) -> list[str]:
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return [line for line in lines if line.strip()]


def named_values(tree: ast.AST) -> set[str]:
    """Names that a module gives to values: variables, parameters and fields."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


def test_import_contracts_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]) >= 5
    passed = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)
    assert passed, capsys.readouterr().out


def test_package_root_holds_at_most_twelve_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12
    for path in COMMANDS:
        assert 'if __name__ == "__main__":' in path.read_text(), f"{path.name} is no command"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_command_is_shorter_than_a_hundred_lines(path: Path) -> None:
    length = len(path.read_text().splitlines())
    assert length < 100


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert not [f"{path}: {length}" for path, length in lengths.items() if length > 400]


def test_lines_are_short() -> None:
    lines = code_lines(MODULES)
    mean_length = sum(map(len, lines)) / len(lines)
    assert mean_length <= 46
    assert not [line for line in lines if len(line) > 100]


def test_no_vague_word_names_a_value() -> None:
    vague = {}
    for path in MODULES:
        names = named_values(ast.parse(path.read_text())) & VAGUE_NAMES
        if names:
            vague[str(path.relative_to(ROOT))] = sorted(names)
    assert not vague


def test_tests_share_helpers_through_the_support_package() -> None:
    modules = {path.stem for path in TESTS if path.name.startswith("test_")}
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported = {node.module or ""}
            elif isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
            else:
                continue
            last_words = {name.rpartition(".")[2] for name in imported}
            assert modules.isdisjoint(last_words), f"{path} imports from a test module"
