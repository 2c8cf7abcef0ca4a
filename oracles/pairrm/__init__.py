"""PairRM: the published network, its encoding and its checkpoints."""
