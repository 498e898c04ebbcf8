"""Loading models through transformers, running gates in float32, and V4's prompt format."""
