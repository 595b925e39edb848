"""Mathematical operations shared by losses and metrics."""
