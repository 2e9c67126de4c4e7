"""What every command needs around its work: flags, progress, signals, files written all or nothing."""
