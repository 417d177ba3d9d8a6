"""The embedded model: its endless tasks, its recipe and its weights. See `tasks` for the families."""
