"""Mathematics that losses and metrics share."""
