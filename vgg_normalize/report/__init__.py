"""Reports of a run: JSON for programs, a page for people."""
