"""mmray: paired EEG and voice to graphs, leak-proof cross-modal retrieval, and a served endpoint, on Ray."""

__version__ = "0.5.1"
