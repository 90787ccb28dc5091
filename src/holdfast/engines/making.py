"""Which engine a name stands for; only the one that is asked for is imported."""

from importlib import import_module
from importlib.util import find_spec
from typing import Final

from holdfast.engines.contract import LOCAL, Engine
from holdfast.engines.options import EngineOptions
from holdfast.errors import EngineError

__all__ = ["make"]

_CLASSES: Final = {"slurm": "SlurmEngine", "dask": "DaskEngine"}
#: What has to be installed beside holdfast, by the extra that brings it.
_EXTRAS: Final = {"dask": "distributed"}


def make(options: EngineOptions) -> Engine:
    """The engine that *options* name. Nothing is asked of it yet.

    Raises:
        EngineError: What it needs is not installed; with what installs it.
    """
    name = options.name
    if name == LOCAL:
        from holdfast.engines.local.engine import LocalEngine

        return LocalEngine()
    needed = _EXTRAS.get(name)
    if needed is not None and find_spec(needed) is None:
        raise EngineError(name, f'{needed} is not installed: pip install "holdfast[{name}]"')
    module = import_module(f"holdfast.engines.{name}.engine")
    made: Engine = getattr(module, _CLASSES[name])(options)
    return made
