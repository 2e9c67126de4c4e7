"""What stands between the flags and the work: settings, files, checkpoints, logs."""
