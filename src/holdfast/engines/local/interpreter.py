"""Which Python runs `python3`: holdfast's own where nobody has chosen another.

`.venv/bin/holdfast run e.toml` without an activated environment: a bare machine's `python3` has
none of the packages that lie in `.venv`, beside the very file.
"""

import os
import sys
from collections.abc import Mapping

__all__ = ["stands_in"]


def stands_in(program: str, folder: str, env: Mapping[str, str]) -> bool:
    """Whether holdfast's own interpreter is run for *program*, `python3` or its own version of it.

    Only if nobody chose an environment, by `python` on PATH or by activating one, and holdfast's
    lies beside *folder*, where the experiment file is, or above.

    Args:
        env: What the command finds in its environment besides what it inherits.
    """
    if program not in ("python3", f"python3.{sys.version_info.minor}"):
        return False
    if sys.prefix == sys.base_prefix or not sys.executable:
        return False
    given = {**os.environ, **env}
    if given.get("VIRTUAL_ENV") or given.get("CONDA_PREFIX"):
        return False
    import shutil  # only who asks so far pays for it

    path = given.get("PATH", os.defpath)
    if shutil.which("python", path=path) is not None:
        return False
    above, here = os.path.dirname(os.path.realpath(sys.prefix)), os.path.realpath(folder)
    return os.path.commonpath([above, here]) == above
