"""Networks that read text: loading, batching, reward models."""
