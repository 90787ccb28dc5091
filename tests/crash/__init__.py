"""The crash laboratory: what a crash may leave behind, made on purpose and looked at.

| module | what it owns |
|---|---|
| `effects` | the vocabulary: what a program did to a directory, told by inode |
| `recording`, `watching` | make traces of it: of system calls by strace, of the store's `Files` |
| `models` | which directories a power cut may leave (POSIX, ext4-ordered) |
| `checking`, `subject` | judge them: nothing promised missing, nothing half there |
| `bench`, `workloads`, `lives` | what is done to the store meanwhile, and by whom after a kill |
| `naive`, `mutants`, `removals`, `sabotage` | stores and protocols that must be caught |
| `boundaries` | death and errors at every operation and system call |
| `schedules` | claimants, readers, deleters interleaved operation by operation |
| `powercut` | ext4 and xfs shut down under load, without a flush of their journals |
| `hammer` | writers killed at random |
| `fuzzing` | files of others, mutated towards new lines |
| `jobs` | the same sweeps over a node with eight commands |
| `trees`, `sweeps` | whole trees under real runs, swept by TERM as batch systems do |
| `work`, `chaos` | experiments of which every part is killed, stopped and swept, in the end whole |
| `campaigns`, `figures` | all of it, short and long, with figures |

`python -m tests.crash` runs the short form and prints the figures; `--long` the long one, which
takes about two hours on two cores. `pytest tests/crash` asserts the short form, `pytest -m long`
the long. With `CRASH_ROOM=off` journals have no room made for their lines, as where nothing is
overwritten in place; otherwise they have, wherever the laboratory works.
"""
