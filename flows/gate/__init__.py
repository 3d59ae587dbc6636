"""What a stage run must pass: the fence, then a slot. See README.md in this folder."""

from flows.gate.gate import Held, gate

__all__ = ["Held", "gate"]
