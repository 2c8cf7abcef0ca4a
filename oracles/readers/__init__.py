"""Networks and servers that read text: loading, batching, reward models, endpoints."""
