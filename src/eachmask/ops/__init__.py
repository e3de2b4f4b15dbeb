"""Ops: arithmetic on tensors. No learned weights, no training state, no configuration."""
