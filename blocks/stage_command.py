"""The operator's own program in place of a built-in stage: one block document per stage, named after it."""

from __future__ import annotations

import string
from pathlib import Path

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, field_validator

PLACEHOLDERS = frozenset({"input", "output", "batch_id"})


class StageCommand(Block):
    """The program that runs as the stage after which this document is named. Empty: the built-in stage.

    The program gets an input directory and the path of an output directory that does not exist yet. It writes
    to a temporary directory next to that path and renames it when complete. Exit status 0 means success; 64,
    65, 78, 126 and 127 are not retried, all others are. The last line on stdout may be a JSON object of
    counts.
    """

    _block_type_name = "TDP stage command"
    _block_type_slug = "tdp-stage-command"
    _description = (
        "The program that runs as the stage (extract, convert, store) after which this document is named."
    )

    command: list[str] = Field(
        default_factory=list,
        title="Command",
        description=(
            "Program and arguments, one per line; no shell is involved. {input}, {output} and {batch_id} are "
            "replaced; {{ and }} stand for braces. Empty: the built-in stage."
        ),
        examples=[["/opt/telegram/extract", "--from", "{input}", "--to", "{output}"]],
    )
    timeout_minutes: float | None = Field(
        default=None,
        title="Timeout (min)",
        gt=0,
        description="Empty: the timeout of the pipeline document.",
    )
    memory_mb: int | None = Field(
        default=None,
        title="Memory (MiB)",
        ge=64,
        description=(
            "Maximum address space of each process of the program; larger allocations fail. "
            "Empty: the limit of the pipeline document."
        ),
    )
    # In a dict of SecretStr the server would not mask the values.
    environment: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Environment",
        description="Variables in addition to PATH, HOME and the like. Values are encrypted and not shown.",
    )

    @field_validator("command")
    @classmethod
    def _known_placeholders(cls, command: list[str]) -> list[str]:
        for argument in command:
            for _, name, spec, conversion in string.Formatter().parse(argument):
                if name is not None and (name not in PLACEHOLDERS or spec or conversion):
                    known = ", ".join(f"{{{known}}}" for known in sorted(PLACEHOLDERS))
                    raise ValueError(f"unknown placeholder {{{name}}} in {argument!r}; known: {known}")
        if command and not command[0].strip():
            raise ValueError("the first argument is the program to run and cannot be empty")
        return command

    def argv(self, *, input: Path, output: Path, batch_id: str) -> list[str]:  # noqa: A002 - the placeholder's name
        """Return the argument list for one batch; empty for the built-in stage."""
        return [argument.format(input=input, output=output, batch_id=batch_id) for argument in self.command]

    def variables(self) -> dict[str, str]:
        """Return the environment variables in plain text."""
        return {name: str(value) for name, value in self.environment.get_secret_value().items()}
