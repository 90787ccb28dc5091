"""The names of the environment variables that an attempt gets. Nothing is imported here.

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

#: The same for the user's own aggregation.
RESULTS = "HOLDFAST_RESULTS"
TABLE = "HOLDFAST_TABLE"

#: The marks of the attempts that a process is part of, the innermost last. Empty in one that wants
#: to be part of none (a daemon that is shared).
SESSION = "HOLDFAST_SESSION"

#: What tells an attempt of itself: of one that runs holdfast, its own attempts inherit none.
OF_ONE = (INDEX, PARAMS, PARAMS_FILE, RESULT, CHECKPOINT_DIR, RESULTS, TABLE)
