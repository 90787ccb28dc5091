"""What an attempt is told by environment variables: their names. Nothing is imported here.

The starter loads this file by itself, in an interpreter that knows no packages.
"""

#: Whose attempt it is.
EXPERIMENT_ID = "HOLDFAST_EXPERIMENT_ID"
STATE_DIR = "HOLDFAST_STATE_DIR"
INDEX = "HOLDFAST_INDEX"
COUNT = "HOLDFAST_COUNT"
ATTEMPT = "HOLDFAST_ATTEMPT"

#: What it is to work with, and where to.
PARAMS = "HOLDFAST_PARAMS"
PARAMS_FILE = "HOLDFAST_PARAMS_FILE"
RESULT = "HOLDFAST_RESULT"
CHECKPOINT_DIR = "HOLDFAST_CHECKPOINT_DIR"

#: What it reports: a file for lines of progress, and a folder for files of its own.
PROGRESS = "HOLDFAST_PROGRESS"
REPORTS = "HOLDFAST_REPORTS"

#: The time, in seconds since 1970, from which on it should save its work and end: its timeout is
#: ahead.
STOP_AT = "HOLDFAST_STOP_AT"

#: For a launcher instead of `INDEX`: the index of its first rank, how many there are, the parent of
#: their checkpoint directories, and which of them need not run any more (independent ranks only).
LAUNCHER = "HOLDFAST_LAUNCHER"
RANKS = "HOLDFAST_RANKS"
CHECKPOINTS = "HOLDFAST_CHECKPOINTS"
COMPLETED = "HOLDFAST_COMPLETED"

#: Under which name a rank's wrapper writes, and whatever it runs is to.
INCARNATION = "HOLDFAST_INCARNATION"

#: The same for the user's own aggregation.
RESULTS = "HOLDFAST_RESULTS"
TABLE = "HOLDFAST_TABLE"

#: The marks of the attempts that a process is part of, the innermost last. Empty in one that wants
#: to be part of none (a daemon that is shared).
SESSION = "HOLDFAST_SESSION"

#: What tells an attempt of itself: of one that runs holdfast, its own attempts inherit none.
OF_ONE = (
    INDEX, PARAMS, PARAMS_FILE, RESULT, CHECKPOINT_DIR, RESULTS, TABLE,
    PROGRESS, REPORTS, STOP_AT, LAUNCHER, RANKS, CHECKPOINTS, COMPLETED, INCARNATION,
)  # fmt: skip
