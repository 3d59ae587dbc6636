"""Every error of this project: what happened, and what to do next.

``Retryable`` marks what can go away by itself; nothing else is tried again.
"""

from __future__ import annotations


class TdpError(Exception):
    """Base of every error this project raises on purpose."""


class Retryable(TdpError):
    """Something that can go away: the task that met it is tried again, with backoff."""


class StageFailed(Retryable):
    """A stage's process ended with an error. The tail of its stderr is in the message and in the ledger."""


class StageCrashed(StageFailed):
    """A stage's process ended by a fault of its own: no exit, and no signal from outside."""


class StageTimedOut(Retryable):
    """A stage ran past its time-out and its whole process group was ended."""


class GateLost(Retryable):
    """The fence's session or the Prefect lease was lost while a stage ran; its work was ended at once."""


class DatabaseUnavailable(Retryable):
    """PostgreSQL did not answer. Look at `tdp status`; the work goes on by itself when it is back."""


class StageMisconfigured(TdpError):
    """A stage's command cannot be run as configured, or what it got is not what it takes (exit status 65).

    Correct its StageCommand block, or run the batch again from the stage before; then retry.
    """


class DeploymentMissing(TdpError):
    """A deployment of ours is not on the Prefect server. Run `tdp apply`."""


class LimitMissing(TdpError):
    """A global concurrency limit does not exist or is not active. Run `tdp apply`."""


class BatchBusy(TdpError):
    """Another live run holds this batch; it does the work and this run has nothing to do."""


class BatchFailed(TdpError):
    """The run of a batch on the work pool ended without completing it. `tdp show` of the batch says more."""


class BatchUnknown(TdpError):
    """No batch of that id is in the ledger. `tdp batches` lists them."""


class NothingChosen(TdpError):
    """A backfill was not told of what. Name batches, a status, dates, a source file or an error."""


class BatchesFailed(TdpError):
    """Some batches of a run failed; the message names them. Retry the run when the cause is gone."""


class SourceMissing(TdpError):
    """A stored source file is gone from disk before its batch was done. Drop the file in the inbox again."""


class BadInput(TdpError):
    """A source file, or an export within it, that can never be read. It is quarantined with this reason."""


class RulesBroken(TdpError):
    """The audit found rows that break a rule. `tdp verify` shows them again, and whether it still holds."""


class SchemaMismatch(TdpError):
    """The database's schema is not the one of this release. `tdp migrate` brings it forward, or back."""


class ServiceFailed(TdpError):
    """A service (PostgreSQL, Prefect server, worker) did not start. The message names its log file."""
