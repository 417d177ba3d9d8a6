"""The embedded model: its tasks, its recipe and its weights. See `tasks` for the families."""
