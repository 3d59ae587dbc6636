"""Prefect blocks: the settings that operators edit in the UI."""

from blocks.database import DATABASE, connector
from blocks.pipeline import PIPELINE, PipelineConfig
from blocks.stage_command import StageCommand

__all__ = ["DATABASE", "PIPELINE", "PipelineConfig", "StageCommand", "connector"]
