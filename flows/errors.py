"""All errors of this project: what each means, and what to do next.

Only subclasses of ``Retryable`` are retried: their cause may disappear without an operator.
"""

from __future__ import annotations


def in_one_line(error: BaseException) -> str:
    """Return the message of an error; those of PostgreSQL have several lines."""
    return " ".join(str(error).split())


class TdpError(Exception):
    """Base of all errors that this project raises; its arguments are the lines of the message."""

    def __str__(self) -> str:
        """Return the lines."""
        return "\n".join(map(str, self.args))


class Retryable(TdpError):
    """A transient error: the task that raised it is retried, with exponential backoff."""


class StageFailed(Retryable):
    """A stage's process exited with an error. The message and the ledger have the end of its stderr."""


class StageCrashed(StageFailed):
    """A stage's process was ended by its own fault, such as SIGSEGV, not by an exit or an outside signal."""


class StageTimedOut(Retryable):
    """A stage exceeded its timeout; its whole process group was killed."""


class GateLost(Retryable):
    """The fence's session or the Prefect lease was lost while a stage ran; its processes were killed."""


class DatabaseUnavailable(Retryable):
    """PostgreSQL did not respond. Check `tdp status`; work continues when the server is available again."""


class StageMisconfigured(TdpError):
    """A stage's command cannot be run as configured, or it rejects its input (exit status 65).

    Correct its StageCommand block, or run the batch again from the stage before; then retry.
    """


class DeploymentMissing(TdpError):
    """A deployment of this project is not on the Prefect server. Run `tdp apply`."""


class LimitMissing(TdpError):
    """A global concurrency limit does not exist or is not active. Run `tdp apply`."""


class BatchBusy(TdpError):
    """Another live run holds the lock on this batch or flow run, and processes it."""


class BatchHeld(TdpError):
    """The batch is held: no run processes it. `tdp resume`, Retry of its run, or a backfill continues it."""


class BatchFailed(TdpError):
    """A batch's run on the work pool ended without completing it. `tdp show BATCH` shows the reason."""


class BatchUnknown(TdpError):
    """No batch with this id is in the ledger. `tdp batches` lists all batches."""


class NothingChosen(TdpError):
    """A backfill has no filter, or no batch matches. Name batches, a status, dates, a file or an error."""


class BatchesFailed(TdpError):
    """Some batches of a run failed; the message names them. Remove the cause, then retry the run."""


class SourceMissing(TdpError):
    """A batch cannot be extracted: a stored source file is missing. Copy the file into the inbox again."""


class FileUnavailable(TdpError):
    """A source file cannot be returned or dropped. `tdp files` lists source files and their status."""


class FolderRefused(TdpError):
    """A folder of this installation itself cannot be the source or the target of files. Name another one."""


class BadInput(TdpError):
    """A source file, or an export in it, cannot be read. The file is quarantined with this reason."""


class ChatUnknown(TdpError):
    """No chat, or more than one, has this name, key or id. The message lists the candidates."""


class QueryUnclear(TdpError):
    """A search requires no word, or too many. Name a word, or search with ``--substring``."""


class AccessDenied(TdpError):
    """The database role does not have the rights that the command needs. Use the role that `tdp up` uses."""


class QueryTimedOut(TdpError):
    """A query took longer than its timeout. Choose fewer rows, or allow more time with ``--timeout``."""


class ExportFailed(TdpError):
    """An export cannot be written as requested; the message gives the reason. No part of the file is left."""


class PackageMissing(TdpError):
    """A package that only this command needs is not installed; the message has the command to install it."""


class RulesBroken(TdpError):
    """The audit found rows that break a rule. `tdp verify` repeats the audit and shows such rows."""


class SchemaMismatch(TdpError):
    """The database's schema is not that of this release. `tdp migrate` upgrades or downgrades it."""


class ServiceFailed(TdpError):
    """A service (PostgreSQL, Prefect server, worker) did not start. The message names its log file."""
