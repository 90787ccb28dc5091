"""The crash laboratory: what a crash may leave behind, made on purpose and looked at.

`effects` is the vocabulary; `recording` (system calls) and `watching` (the store's `Files`) make
traces of it; `models` says which directories a power cut may leave; `checking` judges them;
`workloads` is what is done to the store meanwhile; `naive` and `mutants` are stores that must be
caught; `boundaries` injects errors and deaths at every operation; `schedules` interleaves claimants
operation by operation; `powercut` cuts real file systems off; `hammer` kills writers.

`python -m tests.crash` runs the short form and prints the figures, `--long` the long one.
"""
