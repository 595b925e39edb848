"""From a photograph to its layers: reading, separating in tiles, writing."""
