"""Model extrapolation (ExPO): a better language model from two checkpoints, without training."""

__version__ = "0.1.0"
