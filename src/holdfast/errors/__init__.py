"""Every error that holdfast raises, under one base, with its facts as attributes.

The message is derived from the facts and says what, where and what to do next. All of them pickle:
they cross process pools and notebooks' kernels.
"""

from holdfast.errors import base, disk, experiments, work
from holdfast.errors.base import *  # noqa: F403
from holdfast.errors.disk import *  # noqa: F403
from holdfast.errors.experiments import *  # noqa: F403
from holdfast.errors.work import *  # noqa: F403

__all__: list[str] = []
__all__ += base.__all__
__all__ += disk.__all__
__all__ += experiments.__all__
__all__ += work.__all__
