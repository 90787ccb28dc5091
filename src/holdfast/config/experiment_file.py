"""The experiment file: what a user declares, checked as a whole, and the work that it defines.

Owns the meaning of every key. Reading TOML and checking each value is in `declaration` beside
this file, `--set` in `overrides`, the product of the lists in `matrix`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import attrs

from holdfast.config import declaration, matrix, values
from holdfast.config import overrides as setting
from holdfast.config.declaration import Aggregation, Limits, Retry
from holdfast.config.hashing import compute_config_hash
from holdfast.config.matrix import Params
from holdfast.config.placeholders import fill
from holdfast.encoding import portable
from holdfast.errors import ConfigError, ConfigProblem

__all__ = ["Aggregation", "Experiment", "Limits", "Retry", "load_config"]

#: A file of a million parameter sets is about this long; more is a mistaken file name.
_LONGEST_FILE = 64 << 20

#: Characters of a line that a message shows.
_MOST_SHOWN = 80


@attrs.frozen(kw_only=True)
class Experiment:
    """A checked experiment: every process is known, and nothing in it can be misspelt any more.

    Attributes:
        name: For people; None if it has none.
        command: The argv of every process, with `{key}` placeholders; no shell.
        params: The parameters of each process, in the order of their index.
        env: Added to the environment of every process. What is inherited is never stored.
        path: The file that it was read from; None if there was none.
        cwd: Directory in which the processes run, absolute.
        source: As it was written, with overrides, in the shape of the file; JSON.
    """

    name: str | None = None
    command: tuple[str, ...]
    params: tuple[Params, ...]
    env: Mapping[str, str]
    limits: Limits
    retry: Retry
    aggregate: Aggregation
    path: Path | None = None
    cwd: Path
    source: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def num_processes(self) -> int:
        """How many processes there are, at least one."""
        return len(self.params)

    def argv(self, index: int) -> tuple[str, ...]:
        """The command of process *index*, its placeholders filled in.

        Raises:
            IndexError: There is no such process.
        """
        if not 0 <= index < len(self.params):
            raise IndexError(f"process {index} of {len(self.params)}")
        values = {**self.params[index], "index": index, "count": len(self.params)}
        return tuple(fill(word, values) for word in self.command)

    def work(self, state_dir: Path) -> dict[str, Any]:
        """What defines the work, JSON-like: two experiments with equal work are one.

        The name, limits, retries and aggregation are not in it, nor whether the parameters came
        from a matrix or a number of processes. The directory is taken relative to *state_dir*, so
        that a project can move as a whole, and two projects that share one never match.
        """
        here = os.path.realpath(self.cwd)
        return {
            "command": list(self.command),
            "params": [dict(params) for params in self.params],
            "env": dict(self.env),
            "cwd": portable(os.path.relpath(here, os.path.realpath(state_dir))),
        }

    def config_hash(self, state_dir: Path) -> str:
        """The hash by which `run` finds the experiment that does this work already."""
        return compute_config_hash(self.work(state_dir))

    def moved_with(self, state_dir: Path, config_hash: str | None) -> Self:
        """This experiment in the folder that was meant when *config_hash* was made.

        A stored directory is absolute. Once the project was moved or copied with its *state_dir*,
        it names what is gone or, worse, the original; the hash tells where it lies now. Where no
        folder fits the hash, the stored one stays.
        """
        if config_hash is None or self.config_hash(state_dir) == config_hash:
            return self
        home = Path(os.path.realpath(state_dir)).parent
        below = [home.joinpath(*self.cwd.parts[-n:]) for n in range(1, len(self.cwd.parts))]
        for folder in (home, *home.parents, *below):
            moved = attrs.evolve(self, cwd=folder)
            if moved.config_hash(state_dir) == config_hash:
                return moved
        return self

    def to_config(self) -> dict[str, Any]:
        """The whole declaration as JSON, in the shape of the file; stored in `state.config`."""
        return dict(self.source)

    def differs_in(self, config: Mapping[str, Any]) -> list[str]:
        """Which of limits, retry and aggregate *config*, of the same work, declares otherwise."""
        return [
            key
            for key in ("limits", "retry", "aggregate")
            if self.source.get(key) != config.get(key)
        ]

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], cwd: Path | str = Path(), path: Path | str | None = None
    ) -> Self:
        """The experiment that *config* declares: a stored one, or a mapping in the file's shape.

        Args:
            config: As `to_config` returns it, or written by hand.
            cwd: Directory in which the processes run.
            path: Only to be named in errors and listings.

        Raises:
            ConfigError: All problems at once.
        """
        return _checked(cls, config, [], cwd, path)

    @classmethod
    def from_command(
        cls,
        argv: Sequence[str],
        processes: int = 1,
        *,
        cwd: Path | str = Path(),
        name: str | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Self:
        """*processes* identical processes of one command, told apart by `{index}`.

        Raises:
            ConfigError: All problems at once.
        """
        config: dict[str, Any] = {"command": list(argv), "processes": processes}
        if name is not None:
            config["name"] = name
        changed, problems = setting.apply_overrides(config, overrides or {}, declaration.TOP_LEVEL)
        return _checked(cls, changed, problems, cwd, None)


def load_config(path: Path | str, overrides: Mapping[str, str] | None = None) -> Experiment:
    """Read the experiment file *path*, with `--set` *overrides* applied before it is checked.

    Processes will run in the folder of the file.

    Raises:
        ConfigError: All problems at once, each with its key and a suggestion where there is one.
    """
    path = Path(path)
    document = _read(path)
    changed, problems = setting.apply_overrides(document, overrides or {}, declaration.TOP_LEVEL)
    problems += matrix.misses(changed.get("matrix"), document.get("matrix"))
    return _checked(Experiment, changed, problems, path.absolute().parent, path)


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # 10 ms; resuming does not read a file

    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
    except OSError as err:
        problem = ConfigProblem("file", err.strerror or str(err), _other_file(path))
        raise ConfigError(str(path), [problem]) from err
    if len(data) > _LONGEST_FILE:
        raise ConfigError(str(path), [ConfigProblem("file", "longer than 64 MiB")])
    try:
        # utf-8-sig: editors on Windows put a mark in front that TOML does not have.
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        what = f"byte 0x{data[err.start]:02x} at offset {err.start} is not UTF-8"
        raise ConfigError(str(path), [ConfigProblem("file", what)]) from err
    except ValueError as err:
        raise ConfigError(str(path), [ConfigProblem("TOML", _with_line(err, data))]) from err
    except RecursionError as err:
        raise ConfigError(str(path), [ConfigProblem("TOML", "nested too deeply")]) from err


def _with_line(err: ValueError, data: bytes) -> str:
    """What the parser says, with the line that it is about."""
    place = re.search(r"\(at line (\d+), ", str(err))
    if place is None:
        return str(err)
    line = data.decode("utf-8-sig").splitlines()[int(place[1]) - 1 :][:1]
    return ": ".join([str(err), *(each.strip()[:_MOST_SHOWN] for each in line)])


def _other_file(path: Path) -> str:
    """Where an experiment file may have been meant to be; empty if nobody can tell."""
    try:
        folder = path if path.is_dir() else path.parent
        found = {each.stem for each in folder.glob("*.toml")} - {"pyproject", path.stem}
    except OSError:
        return ""
    close = values.closest(path.stem, found)
    if close is None and len(found) == 1:
        (close,) = found
    return f"did you mean {folder / close}.toml?" if close is not None else ""


_E = TypeVar("_E", bound=Experiment)


def _checked(
    kind: type[_E],
    config: Mapping[str, Any],
    problems: list[ConfigProblem],
    cwd: Path | str,
    path: Path | str | None,
) -> _E:
    declared, found = declaration.check(config)
    if declared is None or problems:
        raise ConfigError("command line" if path is None else str(path), [*problems, *found])
    return kind(
        name=declared.name,
        command=declared.command,
        params=declared.params,
        env=declared.env,
        limits=declared.limits,
        retry=declared.retry,
        aggregate=declared.aggregate,
        path=None if path is None else Path(path).absolute(),
        cwd=Path(cwd).absolute(),
        source=declared.source,
    )
