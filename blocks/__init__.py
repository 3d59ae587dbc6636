"""Prefect blocks: what operators change in the UI, and how our code reads it."""

from blocks.database import DATABASE, connector
from blocks.pipeline import PIPELINE, PipelineConfig
from blocks.stage_command import StageCommand

__all__ = ["DATABASE", "PIPELINE", "PipelineConfig", "StageCommand", "connector"]
