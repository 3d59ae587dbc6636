"""Prefect blocks: the settings that operators edit in the UI."""

from blocks.database import DATABASE, connector
from blocks.pipeline import PIPELINE, PipelineConfig
from blocks.stage_command import StageCommand
from blocks.telegram import TELEGRAM, TelegramBot

__all__ = ["DATABASE", "PIPELINE", "TELEGRAM", "PipelineConfig", "StageCommand", "TelegramBot", "connector"]
