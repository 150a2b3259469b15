"""recipe -> TRL -> checkpoint, for pairs of one's own. Knows checkpoints and weights, nothing of search."""
