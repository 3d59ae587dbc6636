"""The operator's own program in place of a built-in stage: one document per stage, named after it."""

from __future__ import annotations

import string
from pathlib import Path

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, field_validator

PLACEHOLDERS = frozenset({"input", "output", "batch_id"})


class StageCommand(Block):
    """The program that runs as the stage this document is named after. Empty: the built-in one.

    It is given an input directory and the path of an output directory that does not exist yet. It writes to
    a temporary name beside it and renames it when complete. Exit status 0 means done; 64, 78, 126 and 127
    are not tried again, all others are. Its last line on stdout may be a JSON object of counts.
    """

    _block_type_name = "TDP stage command"
    _block_type_slug = "tdp-stage-command"
    _description = (
        "The program that runs as the stage (extract, convert, store) this document is named after."
    )

    command: list[str] = Field(
        default_factory=list,
        title="Command",
        description=(
            "Program and arguments, one per line, without a shell: {input}, {output} and {batch_id} are "
            "filled in, {{ and }} are braces. Empty: the built-in stage."
        ),
        examples=[["/opt/telegram/extract", "--from", "{input}", "--to", "{output}"]],
    )
    timeout_minutes: float | None = Field(
        default=None,
        title="Time-out (min)",
        gt=0,
        description="Empty: what the pipeline document says.",
    )
    memory_mb: int | None = Field(
        default=None,
        title="Memory (MiB)",
        ge=64,
        description=(
            "Address space each process of the program may have; what asks for more is refused it. "
            "Empty: what the pipeline document says."
        ),
    )
    # Of a dict of SecretStr the server hides nothing from whoever reads the document.
    environment: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Environment",
        description="Variables beside PATH, HOME and the like. Values are stored encrypted, and not shown.",
    )

    @field_validator("command")
    @classmethod
    def _known_placeholders(cls, command: list[str]) -> list[str]:
        for argument in command:
            for _, name, spec, conversion in string.Formatter().parse(argument):
                if name is not None and (name not in PLACEHOLDERS or spec or conversion):
                    known = ", ".join(f"{{{known}}}" for known in sorted(PLACEHOLDERS))
                    raise ValueError(f"unknown placeholder {{{name}}} in {argument!r}; known are {known}")
        if command and not command[0].strip():
            raise ValueError("the first argument is the program to run and cannot be empty")
        return command

    def argv(self, *, input: Path, output: Path, batch_id: str) -> list[str]:  # noqa: A002 - the placeholder's name
        """Return the argument list for one batch; empty for the built-in stage."""
        return [argument.format(input=input, output=output, batch_id=batch_id) for argument in self.command]

    def variables(self) -> dict[str, str]:
        """Return the environment's variables, revealed."""
        return {name: str(value) for name, value in self.environment.get_secret_value().items()}
