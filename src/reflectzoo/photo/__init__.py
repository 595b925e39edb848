"""Read photographs with all of their metadata, and write them back with a note on everything that is lost."""
