"""Imports point downward only, and every outside thing has one owner.

Everything is read from the source with `ast`, so that imports inside functions count, too.
"""

import ast
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import holdfast

ROOT = Path(holdfast.__file__).parent

#: What lives in which layer. A new module has to be placed here before anything else passes.
LAYERS = {
    "cli": ["cli", "cli.*", "console", "__main__"],
    "demo": ["demo", "demo.*"],
    "orchestration": [
        "orchestration", "orchestration.*", "aggregation", "averages", "results", "rows",
        "spending", "stored",
        "doctor", "doctor.*",
    ],
    "store": ["store", "store.*"],
    "engines": ["engines", "engines.*"],
    "attempts": ["attempts", "attempts.*"],
    "experiment file": ["config", "config.*"],
    "pictures": ["diagrams", "drawing"],
    "lifecycle": ["lifecycle"],
    "liveness": ["liveness", "start_times"],
    "machines": ["machines", "decisions", "guards", "effects", "events"],
    "records": ["records", "errors", "identity", "ids", "status", "validators", "encoding"],
}  # fmt: skip

#: What each layer may import besides itself. `store` and `engines` do not know each other.
MAY_IMPORT = {
    "cli": set(LAYERS) - {"cli"},
    "demo": {"orchestration", "store", "engines", "experiment file", "records"},
    "orchestration": {
        "store", "engines", "attempts", "experiment file", "lifecycle", "liveness", "machines",
        "records",
    },
    "store": {"attempts", "experiment file", "lifecycle", "liveness", "machines", "records"},
    "engines": {"attempts", "liveness", "records"},
    "attempts": {"liveness", "records"},
    "experiment file": {"records"},
    "pictures": {"machines", "records"},
    "lifecycle": {"machines", "records"},
    "liveness": {"records"},
    "machines": {"records"},
    "records": set(),
}  # fmt: skip

#: Conveniences of a record that reach upwards, inside a function: users look for them there.
CONVENIENCES = {
    ("records", "machines"), ("records", "liveness"), ("records", "diagrams"),
    ("machines", "diagrams"),
}  # fmt: skip

#: Who may import what is not ours. Swapping one of these is a change to one place.
OWNERS = {
    "statemachine": ["machines"],
    "cattrs": ["store.codec", "config.declaration"],
    "psutil": ["liveness"],
    "click": ["cli", "cli.*"],
    "rich": ["cli", "cli.*"],
    "subprocess": ["engines.*"],
    "tomllib": ["config.experiment_file", "config.overrides"],
}

#: Who may call what changes the disk or other processes, or waits for nothing.
CALLERS = {
    "os.fsync os.fdatasync os.rename os.replace os.link": [
        "store.files", "attempts.*", "results", "engines.*",
    ],
    "os.kill os.killpg": ["liveness", "attempts.family", "engines.*"],
    "os.fork os.posix_spawn os.execve": ["engines.*"],
    # Each says there why nothing wakes it.
    "time.sleep": ["store.ownership", "cli.logs"],
}  # fmt: skip


@cache
def tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"), str(source))


@cache
def modules() -> frozenset[str]:
    """Every module below `holdfast`, dotted; a package by its own name."""
    found = set()
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    # The package itself only says where each name lives.
    return frozenset(found - {""})


def imported(module: str, *, deferred: bool = True) -> set[str]:
    """Dotted names of what *module* imports, ours without the leading `holdfast.`."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree(module)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {
                name if name.removeprefix("holdfast.") in modules() else base for name in names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            if deferred or not typing_only:
                pending += ast.iter_child_nodes(node)
    return {name.removeprefix("holdfast.") for name in found}


def fits(module: str, patterns: list[str]) -> bool:
    return any(fnmatch(module, pattern) for pattern in patterns)


def layer(module: str) -> str:
    homes = [name for name, patterns in LAYERS.items() if fits(module, patterns)]
    assert len(homes) == 1, f"place {module} in exactly one layer, found {homes}"
    return homes[0]


def test_layers_point_downward():
    """What a layer may import lies below it: the rules themselves have no circle."""
    assert set(MAY_IMPORT) == set(LAYERS)
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


def test_every_module_has_its_layer():
    """A module that nobody placed is caught, whatever it imports."""
    assert {module: layer(module) for module in modules()}


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_downward_only(module):
    """A module imports its own layer or one that lies below."""
    home = layer(module)
    upward = {
        name
        for name in imported(module) & modules()
        if layer(name) not in {home} | MAY_IMPORT[home] and (module, name) not in CONVENIENCES
    }
    assert not upward, f"{module} ({home}) must not import {sorted(upward)}"


def test_manager_and_engines_do_not_know_each_other():
    """Either could be replaced without a look at the other."""
    reach = {module: imported(module) & modules() for module in modules()}

    def everything_below(module: str) -> set[str]:
        seen, pending = set(), [module]
        while pending:
            for name in reach[pending.pop()] - seen:
                seen.add(name)
                pending.append(name)
        return seen

    store = {module for module in modules() if layer(module) == "store"}
    engines = {module for module in modules() if layer(module) == "engines"}
    assert not engines & set().union(*map(everything_below, store))
    assert not store & set().union(*map(everything_below, engines))


def test_modules_of_one_layer_do_not_import_in_circles():
    """Whatever is imported first, no module meets a half-made one."""
    graph = {module: imported(module, deferred=False) & modules() for module in modules()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(("package", "owners"), OWNERS.items())
def test_every_outside_thing_has_one_owner(package, owners):
    """A dependency is imported where it is at home, and nowhere else."""
    strangers = {
        module
        for module in modules()
        if any(name.split(".")[0] == package for name in imported(module))
        and not fits(module, owners)
    }
    assert not strangers, f"{package} belongs to {owners}"


@pytest.mark.parametrize(("calls", "callers"), CALLERS.items())
def test_what_changes_the_world_is_called_where_it_is_at_home(calls, callers):
    """Synchronising, renaming, signalling and forking each happen in a few known places."""
    wanted = set(calls.split())
    strangers = {
        f"{module}: {ast.unparse(node.func)}"
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in wanted
        and not fits(module, callers)
    }
    assert not strangers


def test_nobody_looks_at_the_clock_where_one_is_handed_in():
    """The layers that decide know the time from their events and records only."""
    pure = {"lifecycle", "machines", "records", "experiment file", "pictures"}
    looks = {"datetime.now", "datetime.utcnow", "datetime.today", "time.time", "time.monotonic"}
    strangers = {
        module
        for module in modules()
        if layer(module) in pure
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in looks
    }
    assert not strangers


def test_every_module_says_what_it_owns():
    """A docstring on top of every file."""
    assert not [module for module in modules() if not ast.get_docstring(tree(module))]
