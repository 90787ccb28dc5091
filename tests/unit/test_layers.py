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

#: What each room may import besides itself; every package and every module at the top is one. A new
#: one has to be placed here before anything else passes. `store` and `engines` do not know each
#: other, and who adds an engine learns nothing of the store.
MAY_IMPORT = {
    "status": set(),
    "validators": set(),
    "encoding": set(),
    "host": set(),
    "identity": {"validators"},
    "errors": {"identity", "status"},
    "ids": {"errors"},
    "liveness": {"host", "identity"},
    "globs": {"encoding"},
    "engine_options": set(),
    "syncing": set(),
    "config": {"encoding", "engine_options", "errors", "globs", "status"},
    "provenance": {"encoding", "errors", "syncing"},
    "attempts": {"errors", "identity", "liveness", "status", "syncing"},
    "engines": {
        "attempts", "encoding", "engine_options", "errors", "host", "identity", "liveness",
        "status",
    },
    "slots": {"attempts", "errors", "liveness"},
    "worker": {"attempts", "errors", "syncing"},
    "lifecycle": {"errors", "identity", "liveness", "status", "validators"},
    "diagrams": {"errors", "lifecycle", "status"},
    "store": {
        "attempts", "config", "errors", "identity", "ids", "lifecycle", "liveness", "status",
        "syncing",
    },
    "results": {
        "attempts", "encoding", "errors", "globs", "lifecycle", "provenance", "status", "store",
    },
    "orchestration": {
        "attempts", "config", "encoding", "engines", "errors", "identity", "lifecycle",
        "provenance", "results", "slots", "status", "store",
    },
    "doctor": {
        "attempts", "config", "encoding", "engines", "errors", "identity", "lifecycle",
        "provenance", "results", "status", "store",
    },
    "reading": {
        "attempts", "config", "encoding", "errors", "identity", "lifecycle", "liveness",
        "provenance", "results", "slots", "status", "store",
    },
    "plot": {"errors", "lifecycle", "reading", "store"},
    "report": {
        "attempts", "diagrams", "errors", "identity", "lifecycle", "provenance", "reading",
        "results", "status", "store",
    },
    "drill": {
        "attempts", "config", "encoding", "engines", "errors", "globs", "lifecycle", "reading",
        "results", "status", "store",
    },
    "demo": {"errors"},
    "guide": set(),
    "cli": {
        "attempts", "config", "demo", "diagrams", "doctor", "drill", "encoding", "engine_options",
        "engines", "errors", "guide", "identity", "lifecycle", "orchestration", "provenance",
        "reading", "report", "results", "slots", "status", "store", "worker",
    },
    "console": {"cli"},
    "__main__": {"console"},
}  # fmt: skip

#: Who may import what is not ours. Swapping one of these is a change to one place.
OWNERS = {
    "statemachine": ["lifecycle.machine", "lifecycle.machines"],
    "cattrs": ["store.explaining", "config.declaration"],
    "psutil": ["liveness.observer"],
    "click": ["cli", "cli.*"],
    "rich": ["cli", "cli.*"],
    "pandas": ["reading.frames", "store.experiments"],
    "polars": ["reading.frames", "store.experiments"],
    "pyarrow": ["reading.frames"],
    "matplotlib": ["plot", "plot.*"],
    "subprocess": ["engines.*", "provenance.git", "drill.runs", "slots.devices"],
    "tomllib": ["config.experiment_file", "config.overrides"],
}

#: Who may call what changes the disk or other processes, or waits for nothing.
CALLERS = {
    "os.fsync os.fdatasync os.rename os.replace os.link": [
        "syncing", "store.files", "attempts.*", "results.acceptance", "engines.*", "worker.*",
        "provenance.code", "provenance.digests",
    ],
    "os.kill os.killpg": [
        "liveness.observer", "attempts.family", "engines.*", "worker.*", "provenance.git",
        "cli.detached",
    ],
    "os.fork os.posix_spawn os.execve": ["engines.*", "worker.wrapping", "cli.detached"],
    # Each says there why nothing wakes it.
    "time.sleep": ["liveness.observer", "store.locking", "cli.logs", "cli.waiting"],
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


def room(module: str) -> str:
    return module.partition(".")[0]


def test_rooms_point_downward():
    """What a room may import lies below it: the rules themselves have no circle."""
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


@pytest.mark.parametrize("name", sorted(MAY_IMPORT.keys() - {"lifecycle"}))
def test_no_room_runs_in_circles(name: str):
    """Nor do the modules in a room, deferred or not; only the machines name each other."""
    within = {module for module in modules() if room(module) == name}
    graph = {module: imported(module) & within - {module} for module in within}
    assert list(TopologicalSorter(graph).static_order())


def test_every_room_is_known():
    """A room that nobody placed is caught, and one that is gone does not stay in the rules."""
    assert {room(module) for module in modules()} == set(MAY_IMPORT)


def test_every_rule_is_used():
    """What no import needs is not allowed: the rules say what is."""
    needed = {name: set() for name in MAY_IMPORT}
    for module in modules():
        needed[room(module)] |= {room(name) for name in imported(module) & modules()}
    assert {name: found - {name} for name, found in needed.items()} == MAY_IMPORT


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_downward_only(module):
    """A module imports its own room or one that lies below."""
    home = room(module)
    upward = {
        name for name in imported(module) & modules() if room(name) not in {home} | MAY_IMPORT[home]
    }
    assert not upward, f"{module} must not import {sorted(upward)}"


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

    store = {module for module in modules() if room(module) == "store"}
    engines = {module for module in modules() if room(module) == "engines"}
    assert not engines & set().union(*map(everything_below, store))
    assert not store & set().union(*map(everything_below, engines))


def test_modules_of_one_room_do_not_import_in_circles():
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
    pure = {"lifecycle", "identity", "status", "config", "diagrams"}
    looks = {"datetime.now", "datetime.utcnow", "datetime.today", "time.time", "time.monotonic"}
    strangers = {
        module
        for module in modules()
        if room(module) in pure
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in looks
    }
    assert not strangers


def test_every_module_says_what_it_owns():
    """A docstring on top of every file."""
    assert not [module for module in modules() if not ast.get_docstring(tree(module))]
