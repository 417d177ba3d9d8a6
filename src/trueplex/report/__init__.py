"""Pictures and tables of stored results; no model is ever asked."""
