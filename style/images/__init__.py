"""Picture files and pixels: reading, writing, resizing, colours, animations."""
