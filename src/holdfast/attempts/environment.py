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

#: How far it is, for eyes only, and what it says of itself.
PROGRESS = "HOLDFAST_PROGRESS"
REPORTS = "HOLDFAST_REPORTS"

#: What a launcher's ranks are told instead of an index: that of the first, and how many there are.
LAUNCHER = "HOLDFAST_LAUNCHER"
RANKS = "HOLDFAST_RANKS"
CHECKPOINTS = "HOLDFAST_CHECKPOINTS"
#: Which independent ranks are completed already.
COMPLETED = "HOLDFAST_COMPLETED"
#: And which of them this attempt is not about: completed, or failed for good.
OVER = "HOLDFAST_OVER"
#: By which torch's launcher is told where to leave why its first rank failed.
TORCHELASTIC_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

#: What `holdfast rank` and what it runs call their files.
INCARNATION = "HOLDFAST_INCARNATION"
#: The pid of the program that is in its block, and speaks for all that it starts meanwhile.
SPEAKER = "HOLDFAST_SPEAKER"

#: From when on (Unix time) a program should stop by itself, ahead of its timeout.
STOP_AT = "HOLDFAST_STOP_AT"

#: Before the kind of each slot that it holds, in upper case: which ones they are.
SLOT = "HOLDFAST_SLOT_"
#: The kind whose names CUDA reads, too; and by which variables: which ones, and how it counts them.
GPU = "gpu"
CUDA_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
CUDA_DEVICE_ORDER = "CUDA_DEVICE_ORDER"

#: The same for the user's own aggregation.
RESULTS = "HOLDFAST_RESULTS"
TABLE = "HOLDFAST_TABLE"

#: The marks of the attempts that a process is part of, the innermost last. Empty in one that wants
#: to be part of none (a daemon that is shared).
SESSION = "HOLDFAST_SESSION"

#: What tells an attempt of itself: of one that runs holdfast, its own attempts inherit none.
OF_ONE = (
    *(INDEX, PARAMS, PARAMS_FILE, RESULT, CHECKPOINT_DIR, RESULTS, TABLE),
    *(PROGRESS, REPORTS, LAUNCHER, RANKS, CHECKPOINTS, COMPLETED, TORCHELASTIC_ERROR_FILE, STOP_AT),
    *(INCARNATION, SPEAKER, OVER),
)

#: Which rank of a launcher a process is, as launchers say it. What runs within one has none of its
#: own by that: its attempts inherit none of these either.
OF_A_RANK = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"),
    *("SLURM_PROCID", "SLURM_STEP_ID"),
)
