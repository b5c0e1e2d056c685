"""Graph networks: layers, the encoder with cross-modal attention, the rivals."""
