"""Which engine a name stands for; only the one that is asked for is imported."""

from importlib.util import find_spec

from holdfast.engine_options import EngineOptions
from holdfast.engines.contract import LOCAL, Engine
from holdfast.errors import EngineError

__all__ = ["make"]


def make(options: EngineOptions) -> Engine:
    """The engine that *options* name. Nothing is asked of it yet.

    Raises:
        EngineError: What it needs is not installed; with what installs it.
    """
    if options.name == LOCAL:
        from holdfast.engines.local.engine import LocalEngine

        return LocalEngine()
    if options.name == "slurm":
        from holdfast.engines.slurm.engine import SlurmEngine

        return SlurmEngine(options)
    if find_spec("distributed") is None:
        what = 'distributed is not installed: pip install "holdfast[dask]"'
        raise EngineError(options.name, what)
    from holdfast.engines.dask.engine import DaskEngine

    return DaskEngine(options)
