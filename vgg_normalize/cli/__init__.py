"""The command: its settings, and its tasks."""
