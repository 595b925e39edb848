"""One room for photographs: read with all that their files say, written back without losing it in silence."""
