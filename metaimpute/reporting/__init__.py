"""What a run shows: progress while it trains, a table when it ends."""
