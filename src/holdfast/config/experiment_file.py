"""The experiment file: what a user declares, checked as a whole, and the work that it defines.

Owns the meaning of every key. Reading TOML and checking each value is in `declaration` beside
this file, `--set` in `overrides`, the product of the lists in `matrix`.
"""

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import attrs

from holdfast import globs
from holdfast.config import declaration, matrix, outputs, slots, values, work
from holdfast.config import overrides as setting
from holdfast.config.declaration import Aggregation, Declaration, Limits, Ranks, Retry
from holdfast.config.hashing import compute_config_hash
from holdfast.config.matrix import Params, identity
from holdfast.config.placeholders import escape, fill, is_plain
from holdfast.config.shell_words import suspicions
from holdfast.encoding import local, portable
from holdfast.engine_options import EngineName
from holdfast.errors import ConfigError, ConfigProblem, ConfigWarning

__all__ = ["Aggregation", "Experiment", "Limits", "Ranks", "Retry", "load_config"]

#: A file of a million parameter sets is about this long; more is a mistaken file name.
_LONGEST_FILE = 64 << 20

#: Characters of a line that a message shows.
_MOST_SHOWN = 80

#: Parameters that are hashed at most to find out in which order of its keys 0.1 stored a matrix.
_MOST_ORDERED = 10_000

_NONE_HELD: Mapping[str, str] = MappingProxyType({})

#: What a stored configuration has under `format` if its `[env]` has braces: they are placeholders.
_FORMAT = 2


@attrs.frozen(kw_only=True)
class Experiment(Declaration):
    """A checked experiment: every process is known, and nothing in it can be misspelt any more.

    Attributes:
        name: For people; None if it has none.
        command: The argv of every process, with `{key}` placeholders; no shell.
        params: The parameters of each process, in the order of their index; those of a launcher's
            ranks are the same.
        ranks: How many processes each command starts; None where it is one itself.
        matrix: Where they come from; None if only their number is given.
        env: Added to the environment of every process, with placeholders as in the command. What
            is inherited is never stored.
        path: The file that it was read from; None if there was none.
        cwd: Directory in which the processes run, absolute.
        source: As it was written, with overrides, in the shape of the file; JSON.
    """

    path: Path | None = None
    cwd: Path

    @property
    def num_processes(self) -> int:
        """How many processes there are, at least one."""
        return len(self.params)

    def argv(self, index: int, held: Mapping[str, str] = _NONE_HELD) -> tuple[str, ...]:
        """The command of process *index*, or of its launcher, filled in. Raises IndexError.

        Args:
            held: The slots that it holds, by kind; its placeholders of others are left as they are.
        """
        if not 0 <= index < len(self.params):
            raise IndexError(f"process {index} of {len(self.params)}")
        known = {**self._known(index), **slots.filled(held)}
        filled = (fill(word, known) for word in self.command)
        return tuple(word for word in filled if word is not None)

    def environment(
        self, index: int | None = None, held: Mapping[str, str] = _NONE_HELD
    ) -> dict[str, str]:
        """What `[env]` adds to the environment of process *index*, its placeholders filled in.

        Args:
            index: None for the aggregation, which gets only what is the same for all.
            held: As for `argv`.
        """
        if index is None:
            shared = {name: text for name, text in self.env.items() if is_plain(text)}
            filled = {name: fill(text, {}) for name, text in shared.items()}
        else:
            known = {**self._known(index), **slots.filled(held)}
            filled = {name: fill(text, known) for name, text in self.env.items()}
        return {name: text for name, text in filled.items() if text is not None}

    def _known(self, index: int) -> dict[str, Any]:
        # Of a launcher, the index of its first rank.
        first = index - index % self.rank_count
        own = {"index": first, "count": len(self.params)}
        return {**self.params[index], **own, **slots.unfilled(self.needs)}

    @property
    def rank_count(self) -> int:
        """Processes that one command stands for."""
        return _count(self.ranks)

    def outputs(self, index: int) -> tuple[str, ...]:
        """Patterns of the files that process *index* leaves behind.

        The ranks of a gang share theirs, so that `{index}` is that of the first. To an independent
        rank it is its own here.
        """
        known = self._known(index)
        if self.ranks is not None and self.ranks.independent:
            known["index"] = index
        return outputs.filled(self.output.files, known)

    def declared(self, index: int, state_dir: Path | None = None) -> tuple[str, ...]:
        """The files whose content belongs to what process *index* does, as they are there now.

        Args:
            state_dir: What no wildcard looks into.

        Raises:
            ConfigError: A pattern matches none.
        """
        files = work.Declared(self.cwd, self._apart(state_dir))
        found = files.paths(outputs.filled(self.identity.files, self._known(index)))
        files.check(self._title)
        return found

    def identity_of(self, index: int, state_dir: Path, sha256: Callable[[Path], str]) -> str:
        """As `identities`, of process *index* alone."""
        first = index - index % self.rank_count
        return self._identities([first], state_dir, sha256)[index - first]

    def identities(self, state_dir: Path, sha256: Callable[[Path], str]) -> tuple[str, ...]:
        """What each process does, as 32 hex digits: equal for equal work, here or elsewhere.

        Args:
            sha256: The digest of a declared file, in hex; may raise DiskError or OSError. Asked
                once for each file.

        Raises:
            ConfigError: Declared files are not there or cannot be read, or outputs lie in the state
                directory.
        """
        self._check_outputs(state_dir)
        firsts = range(0, self.num_processes, self.rank_count)
        return self._identities(firsts, state_dir, sha256)

    def _identities(
        self, firsts: Iterable[int], state_dir: Path, sha256: Callable[[Path], str]
    ) -> tuple[str, ...]:
        """Those of the processes of the commands whose first rank is given."""
        files = work.Declared(self.cwd, self._apart(state_dir))
        shared = {"cwd": work.canonical(self._place(state_dir))}
        if self.matrix is None:
            shared["count"] = work.canonical(self.num_processes)
        if all(map(is_plain, self.env.values())):
            shared["env"] = work.canonical(self.environment())
        by_index = self.matrix is None or self.identity.index
        ranks = [
            {"ranks": work.canonical({**attrs.asdict(self.ranks), "rank": rank})}
            for rank in range(self.rank_count)
            if self.ranks is not None
        ]
        found = []
        for index in firsts:
            known = self._known(index)
            does = {
                **shared,
                "command": work.listed(fill(word, known) for word in self.command),
                "params": work.canonical(self.params[index]),
            }
            if "env" not in shared:
                does["env"] = work.canonical(self.environment(index))
            if self.identity.files:
                patterns = outputs.filled(self.identity.files, known)
                of = "" if patterns == self.identity.files else f"process {index}: "
                does["files"] = files.text(patterns, sha256, of)
            if by_index:
                does["index"] = str(index)
            found += [work.digest({**does, **rank}) for rank in ranks or [{}]]
        files.check(self._title)
        return tuple(found)

    @property
    def _title(self) -> str:
        return str(self.path or "the experiment")

    def _apart(self, state_dir: Path | None) -> tuple[str, ...]:
        """The file itself and what holdfast writes, as seen from here: no wildcard means them."""
        paths = [path for path in (self.path, state_dir) if path is not None]
        here = os.path.realpath(self.cwd)
        found = (os.path.relpath(os.path.realpath(path), here) for path in paths)
        return tuple(path for path in found if path != ".")

    def _check_outputs(self, state_dir: Path) -> None:
        # Where all of them run in the state directory itself, they have to write into it.
        (own,) = self._apart(state_dir)[-1:] or ("..",)
        own = globs.escaped(portable(own))
        if self.output.files and not own.startswith("../"):
            for index in range(self.num_processes):
                for text in self.outputs(index):
                    if text == own or text.startswith(f"{own}/"):
                        what = (
                            f"{globs.plain(text)} lies in the state directory, which is holdfast's"
                        )
                        raise ConfigError(self._title, [ConfigProblem("outputs.files", what)])

    def work(self, state_dir: Path) -> dict[str, Any]:
        """What defines the work, JSON-like: two experiments with equal work are one.

        The name, limits, retries, aggregation, engine, identity, store, hooks and slots are not in
        it, nor whether the parameters came from a matrix or a number, nor the order of its keys.
        The directory is taken relative to *state_dir*, so that a project can move as a whole, and
        two projects that share one never match.
        """
        return self._work(state_dir, self._params_by(sorted))

    def _params_by(self, order: Callable[[Iterable[str]], Sequence[str]]) -> tuple[Params, ...]:
        if self.matrix is None:
            return self.params[:: self.rank_count]
        return self.matrix.params(order(self.matrix.axes))

    def _work(self, state_dir: Path, params: Iterable[Params]) -> dict[str, Any]:
        # Not there without ranks: what was stored before there were any keeps its hash.
        ranks = {} if self.ranks is None else {"ranks": attrs.asdict(self.ranks)}
        left = {"outputs": list(self.output.files)} if self.output.files else {}
        return {
            **ranks,
            **left,
            "command": list(self.command),
            "params": [dict(each) for each in params],
            # As 0.1 had it, for which every text was plain; what is filled in is told from that.
            "env": {
                name: fill(text, {}) if is_plain(text) else {"template": text}
                for name, text in self.env.items()
            },
            "cwd": self._place(state_dir),
        }

    def _place(self, state_dir: Path) -> str:
        here = os.path.realpath(self.cwd)
        return portable(os.path.relpath(here, os.path.realpath(state_dir)))

    def config_hash(self, state_dir: Path) -> str:
        """The hash that is stored with an experiment which does this work."""
        return compute_config_hash(self.work(state_dir))

    def config_hashes(self, state_dir: Path) -> tuple[str, ...]:
        """The hashes by which `run` finds the experiment that does this work already.

        The first is `config_hash`. 0.1 took the parameters in the order of the keys in the file, so
        that the same work has one for each order: all of them, or that of the file alone where
        they are too many.
        """
        found = {self.config_hash(state_dir): None}
        if self.matrix is not None and len(self.matrix.axes) > 1:
            axes = self.matrix.axes
            orders: Iterable[Sequence[str]] = permutations(axes)
            if math.factorial(len(axes)) * len(self.params) > _MOST_ORDERED:
                orders = [tuple(axes)]
            for order in orders:
                params = self.matrix.params(order)
                found[compute_config_hash(self._work(state_dir, params))] = None
        return tuple(found)

    def is_of(self, config_hash: str | None, state_dir: Path) -> bool:
        """Whether *config_hash* was stored for this work as it is written here."""
        if self.config_hash(state_dir) == config_hash:
            return True
        if self.matrix is None or len(self.matrix.axes) < 2:
            return False
        written = self._work(state_dir, self._params_by(tuple))
        return compute_config_hash(written) == config_hash

    def numbered_as(self, config: Mapping[str, Any]) -> Self:
        """This experiment with its processes in the order of *config*, stored for the same work.

        Whoever moves a key of the matrix in the file must not run what was left of one process
        with the parameters of another.
        """
        try:
            params = type(self).from_stored(config, self.cwd).params
        except ConfigError:
            return self
        if sorted(map(identity, params)) != sorted(map(identity, self.params)):
            return self
        return attrs.evolve(self, params=params)

    def moved_with(self, state_dir: Path, config_hash: str | None) -> Self:
        """This experiment in the folder that was meant when *config_hash* was made.

        A stored directory is absolute. Once the project was moved or copied with its *state_dir*,
        it names what is gone or, worse, the original; the hash tells where it lies now. Where no
        folder fits the hash, the stored one stays.
        """
        if config_hash is None or self.is_of(config_hash, state_dir):
            return self
        home = Path(os.path.realpath(state_dir)).parent
        below = [home.joinpath(*self.cwd.parts[-n:]) for n in range(1, len(self.cwd.parts))]
        for folder in (home, *home.parents, *below):
            moved = attrs.evolve(self, cwd=folder)
            if moved.is_of(config_hash, state_dir):
                return moved
        return self

    def to_config(self) -> dict[str, Any]:
        """The whole declaration as JSON, in the shape of the file; stored in `state.config`."""
        config = dict(self.source)
        if any("{" in text or "}" in text for text in self.env.values()):
            config["format"] = _FORMAT
        return config

    def on(self, chosen: EngineName | None) -> Self:
        """This experiment on the engine that is *chosen*, with what its `[engine]` says of that."""
        if chosen is None or chosen == self.engine.name:
            return self
        written = self.source.get("engine")
        table = {**(written if isinstance(written, Mapping) else {}), "name": chosen}
        return attrs.evolve(
            self,
            engine=attrs.evolve(self.engine, name=chosen),
            source={**self.source, "engine": table},
        )

    def differs_in(self, config: Mapping[str, Any]) -> list[str]:
        """In which tables *config*, of the same work, declares otherwise how it is run."""
        return [
            key
            for key in ("limits", "retry", "aggregate", "engine", "hooks", "slots", "needs")
            if self.source.get(key) != config.get(key)
        ]

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], cwd: Path | str = Path(), path: Path | str | None = None
    ) -> Self:
        """The experiment that *config* declares, a mapping in the file's shape.

        Args:
            config: As `to_config` returns it, or written by hand.
            cwd: Directory in which the processes run.
            path: Only to be named in errors and listings.

        Raises:
            ConfigError: All problems at once.

        Warns:
            ConfigWarning: Words that only a shell would understand.
        """
        return _checked(cls, _without_format(config), [], cwd, path)

    @classmethod
    def from_stored(
        cls,
        config: Mapping[str, Any],
        cwd: Path | str | None = None,
        path: Path | str | None = None,
        *,
        state_dir: Path | None = None,
        config_hash: str | None = None,
    ) -> Self:
        """The experiment that this or an older version stored as *config*.

        Args:
            cwd: As a state has it; None for where we are.
            path: As for `from_config`.
            state_dir: Where it is stored now, under *config_hash*: the folder that it was made in
                may have moved with that, see `moved_with`. None where its folder does not matter.

        Raises:
            ConfigError: *config* cannot be used.
        """
        env = config.get("env")
        if isinstance(env, Mapping) and "format" not in config:
            # 0.1 took these for plain text, and what it began must end as it began.
            plain = {k: escape(v) if isinstance(v, str) else v for k, v in env.items()}
            config = {**config, "env": plain}
        folder = Path() if cwd is None else Path(local(os.fspath(cwd)))
        found = _checked(cls, _without_format(config), [], folder, path, again=True)
        return found if state_dir is None else found.moved_with(state_dir, config_hash)

    @classmethod
    def from_command(
        cls,
        argv: Sequence[str],
        processes: int = 1,
        *,
        ranks: int | None = None,
        cwd: Path | str = Path(),
        name: str | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Self:
        """*processes* identical processes of a command with `{index}`. Raises ConfigError.

        Args:
            ranks: How many processes each of them starts by itself; None if it is one.
        """
        config: dict[str, Any] = {"command": list(argv), "processes": processes}
        if ranks is not None:
            config["ranks"] = ranks
        if name is not None:
            config["name"] = name
        changed, problems = setting.apply_overrides(config, overrides or {}, declaration.TOP_LEVEL)
        return _checked(cls, changed, problems, cwd, None)


def load_config(path: Path | str, overrides: Mapping[str, str] | None = None) -> Experiment:
    """Read the experiment file *path*, with `--set` *overrides* applied before it is checked.

    Processes will run in the folder of the file.

    Raises:
        ConfigError: All problems at once, each with its key and a suggestion where there is one.

    Warns:
        ConfigWarning: Words that only a shell would understand.
    """
    path = Path(path)
    document = _read(path)
    changed, problems = setting.apply_overrides(document, overrides or {}, declaration.TOP_LEVEL)
    problems += matrix.misses(changed.get("matrix"), document.get("matrix"))
    return _checked(Experiment, changed, problems, path.absolute().parent, path)


def _without_format(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # What is no mapping is told with everything else that is wrong.
    config_format = config.get("format") if hasattr(config, "get") else None
    if config_format != _FORMAT:
        return config
    return {key: value for key, value in config.items() if key != "format"}


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


def _count(ranks: Ranks | None) -> int:
    return 1 if ranks is None else ranks.count


_E = TypeVar("_E", bound=Experiment)


def _checked(
    kind: type[_E],
    config: Mapping[str, Any],
    problems: list[ConfigProblem],
    cwd: Path | str,
    path: Path | str | None,
    *,
    again: bool = False,
) -> _E:
    """The experiment of *config*, with a warning of shell words unless it is read *again*."""
    declared, found = declaration.check(config, again=again)
    if declared is None or problems:
        raise ConfigError("command line" if path is None else str(path), [*problems, *found])
    for problem in () if again else suspicions(declared.command, declared.env):
        file = "" if path is None else f"{Path(path).name}: "
        warnings.warn(f"{file}{problem}", ConfigWarning, stacklevel=3)
    return kind(
        **{
            **attrs.asdict(declared, recurse=False),
            "params": tuple(
                each for each in declared.params for _ in range(_count(declared.ranks))
            ),
        },
        path=None if path is None else Path(path).absolute(),
        cwd=Path(cwd).absolute(),
    )
