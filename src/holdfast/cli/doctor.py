"""`holdfast doctor`: what is wrong in a state directory, and what was done about it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from holdfast.cli.app import complete_file, in_state_dir, json_option
from holdfast.cli.engines import engine_option
from holdfast.cli.failures import UNREADABLE, say_if_absent
from holdfast.cli.where import Where
from holdfast.doctor import Finding, examine, strays
from holdfast.errors import StateCorruptError, flat
from holdfast.reading import forms, text

if TYPE_CHECKING:
    from holdfast.engine_options import EngineName

__all__ = ["doctor"]


@click.command()
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything.")
@engine_option("Examine that engine instead: can it be reached, does it run a job, do limits fit?")
@json_option
@click.argument(
    "file",
    metavar="[FILE]",
    required=False,
    type=click.Path(path_type=Path),
    shell_complete=complete_file,
)
@in_state_dir
def doctor(
    where: Where, fix: bool, chosen: "EngineName | None", as_json: bool, file: Path | None
) -> int:
    """Look for damage, leftovers and unsafe file systems; mend what loses nothing.

    With --engine, no directory is looked at; [engine] of FILE says what is asked of the engine.

    Replays every journal through the declared machines, compares every view and result with what
    was recorded, and tries the file system's locks, flushes and clock. Hints are no problems. Exits
    with 6 if a state cannot be read, with 1 if other problems remain or there is no such directory.
    """
    if chosen is not None:
        if fix:
            raise click.UsageError("--fix mends a state directory, and --engine looks at none")
        from holdfast.cli.examining import examine_engine

        return examine_engine(chosen, file, as_json=as_json)
    if file is not None:
        raise click.UsageError("FILE goes with --engine; -C DIR names a state directory")
    try:
        found = examine(where.state_dir, fix=fix)
    except StateCorruptError as err:
        # Its own advice is to ask the doctor.
        text.say(f"{flat(err.path)}: {err.problem}", "error")
        text.say("  name a directory that can be read with -C DIR, or look at its permissions")
        return UNREADABLE
    absent = _is_absent(where.state_dir)
    proof = strays.proof()
    if as_json:
        forms.print_json(
            "holdfast.doctor/1",
            {
                "state_dir": str(where.state_dir),
                "findings": [
                    attrs.asdict(each)
                    | {
                        "path": str(each.path),
                        "command": where.command(*each.command) if each.command else None,
                    }
                    for each in found
                ],
                "strays": {
                    "proof": proof.kind,
                    "directory": proof.directory and str(proof.directory),
                },
            },
        )
    else:
        text.emit(line for each in found for line in _lines(each, where, fix=fix))
        text.say(f"stray processes: {text.one_line(str(proof))}")
        if found or not absent:
            _summary(found, fix=fix, command=where.command("doctor", "--fix"))
        say_if_absent(where.state_dir)
    left = [each for each in found if each.severity == "problem" and not each.fixed]
    if any(each.kind == "unreadable" for each in left):
        return UNREADABLE
    # Most often a wrong directory was named: nothing in it is wrong, but nothing was looked at.
    return 1 if left or absent else 0


def _is_absent(state_dir: Path) -> bool:
    try:
        return not state_dir.exists()
    except OSError:
        return False


def _lines(finding: Finding, where: Where, *, fix: bool) -> list[str]:
    style: text.Style = "red" if finding.severity == "problem" else "yellow"
    label = text.paint(finding.severity, style, text.coloured(sys.stdout))
    outcome = "done" if finding.fixed else "not done" if fix and finding.fixable else "to do"
    repair = text.one_line(finding.repair)
    if finding.command:
        repair = f"{repair}: {where.command(*finding.command)}"
    return [
        f"{label}  {finding.kind}  {flat(finding.path)}: {text.one_line(finding.what)}",
        f"  {outcome}: {repair}",
    ]


def _summary(found: list[Finding], *, fix: bool, command: str) -> None:
    if not found:
        text.say("nothing is wrong")
        return
    problems = sum(each.severity == "problem" for each in found)
    hints = len(found) - problems
    text.say(f"{text.count(problems, 'problem')}, {text.count(hints, 'hint')}")
    if not fix and any(each.fixable for each in found):
        text.say(f"mend what loses nothing: {command}")
