"""Run the bot of this installation until SIGTERM or Ctrl-C: ``python -m flows.bot``."""

from flows.bot.process import main
from flows.settings import Settings

if __name__ == "__main__":
    main(Settings())
