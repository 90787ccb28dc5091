"""The engine of a Slurm cluster, by `sbatch`, `squeue`, `scancel` and `scontrol` alone.

`client` runs them, `parsing` reads what they print, `asking` asks for all orchestrators of a user at
once, `batch` writes what is submitted, `wording` says what became of it, and `engine` is the rest.
"""
