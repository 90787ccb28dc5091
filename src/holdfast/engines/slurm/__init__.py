"""The engine of a Slurm cluster, by `sbatch`, `squeue`, `scancel` and `scontrol` alone.

`client` runs them, `parsing` reads what they print, `asking` asks for all orchestrators of a user,
`batch` writes what is submitted, `sending` submits it, `looking` says what became of it.
"""
