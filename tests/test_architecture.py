"""The layers, checked: who may import whom, what a web process loads, and that lists which must agree do agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

from winnow.env import BASE_DIR, VARIABLES, read_environment

HEAVY = ("torch", "transformers", "peft", "accelerate", "safetensors", "gguf")
LONGEST_MODULE = 500
MODULES = [
    path
    for root in ("winnow", "annotation", "training", "tools", "benchmarks")
    for path in (BASE_DIR / root).rglob("*.py")
    if "migrations" not in path.parts
]


def loaded(code: str, tmp_path: Path) -> set[str]:
    """The heavy packages that a fresh process has loaded after running the code."""
    show = f"import sys; print('LOADED', *sorted(set({HEAVY}) & {{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        cwd=BASE_DIR,
        env={"WINNOW_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "winnow.settings", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_import_contracts_hold():
    configure()
    assert lint_imports(config_filename=str(BASE_DIR / "pyproject.toml"), cache_dir=None, no_logo=True)


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_only_the_engine_names_torch():
    """Beyond the contract, which lists modules by name: a new module outside the engine is held too."""
    outside = [path for path in MODULES if not {"engine", "benchmarks"} & set(path.relative_to(BASE_DIR).parts)]
    assert not [(str(path), name) for path in outside for name in imports(path) if name.partition(".")[0] in HEAVY]


def test_domain_modules_know_no_http():
    """import-linter cannot forbid a part of Django."""
    layers = [path for path in MODULES if path.relative_to(BASE_DIR).parts[0] in {"annotation", "training"}]
    domain = [path for path in layers if "api" not in path.parts]
    assert not [
        (str(path), name)
        for path in domain
        for name in imports(path)
        if name.startswith(("django.http", "rest_framework"))
    ]


@pytest.mark.parametrize(
    "code",
    [
        "import winnow.wsgi, winnow.urls, annotation.api.urls, training.api.urls",
        "import django; django.setup(); import winnow.celery; winnow.celery.app.loader.import_default_modules()",
        "import django; django.setup(); import training.management.commands.tick",
        "import training.engine.config, training.engine.presets, training.engine.records, training.engine.metrics",
        "import winnow.supervisor",
    ],
    ids=["web and api", "worker", "tick", "engine's plain part", "supervisor"],
)
def test_no_process_but_the_engine_loads_torch(code, tmp_path):
    assert loaded(code, tmp_path) == set()


def test_the_supervisor_loads_no_django(tmp_path):
    show = "import sys, winnow.supervisor; print('django' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], cwd=BASE_DIR, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_example_environment_lists_exactly_the_variables_with_their_defaults():
    text = (BASE_DIR / ".env.example").read_text()
    listed = dict(re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE))
    assert listed == {variable.name: variable.default for variable in VARIABLES}
    read_environment(listed)
    for variable in VARIABLES:
        described = text.partition(f"\n{variable.name}=")[0].rpartition("\n")[2]
        assert described.startswith("# ")
        assert variable.help.rstrip(".") in described


def test_every_variable_is_read_by_its_name():
    source = (BASE_DIR / "winnow" / "env.py").read_text()
    for variable in VARIABLES:
        assert source.count(f'"{variable.name}"') >= 2, f"{variable.name} is listed and never read"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(BASE_DIR)))
def test_a_module_says_what_it_is_for_and_a_long_one_why_it_is_long(path):
    source = path.read_text()
    docstring = ast.get_docstring(ast.parse(source))
    if path.name == "__init__.py":
        assert not source.strip(), "package __init__.py stay empty"
        return
    assert docstring, "a module begins with what it is for"
    assert "from __future__ import annotations" in source
    lines = source.count("\n")
    assert lines <= LONGEST_MODULE or "is long" in docstring, (
        f"{lines} lines: split it, or write in its docstring why this module is long"
    )
