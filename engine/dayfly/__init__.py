"""dayfly: untrusted Python code in single-use Docker containers, kept warm, over the raw Docker
Engine API.

    from dayfly import Sandbox

    with Sandbox(pool_size=2) as sandbox:
        result = sandbox.run('print("Hello, world!")', timeout_ms=2_000)
        print(result.stdout)
"""

from ._errors import (
    ContainerLost,
    DayflyError,
    EngineError,
    EngineRefused,
    EngineUnreachable,
    ImageMissing,
    PoolClosed,
    PoolError,
    PoolFull,
    PoolTimeout,
    RunnerMisbehaved,
    SandboxError,
    SessionLost,
    StartFailed,
)
from ._job import Job
from ._limits import Limits
from ._result import Outcome, Piece, Result
from ._sandbox import AsyncSandbox
from ._session import AsyncSession
from ._stats import Stats
from ._sync import Sandbox, Session
from ._version import __version__

__all__ = [
    "AsyncSandbox",
    "AsyncSession",
    "ContainerLost",
    "DayflyError",
    "EngineError",
    "EngineRefused",
    "EngineUnreachable",
    "ImageMissing",
    "Job",
    "Limits",
    "Outcome",
    "Piece",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolTimeout",
    "Result",
    "RunnerMisbehaved",
    "Sandbox",
    "SandboxError",
    "Session",
    "SessionLost",
    "StartFailed",
    "Stats",
    "__version__",
]
