"""What a program says of itself while it runs as a process or rank of an experiment.

`process()` is all that a program needs; without an experiment it does next to nothing, so that the
same script runs alone. Nothing here is needed to be run by holdfast. `whoami` says which process
this is, `files` how anything gets onto the disk, `stopping` when to end, `progress`, `checkpoints`
and `results` what is told; `wrapping` speaks for programs that say nothing.

The standard library only, and little of it: every program that imports this pays for it.
"""

from holdfast.worker.process import Process, process

__all__ = ["Process", "process"]
