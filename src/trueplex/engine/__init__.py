"""The engine: grows many traces at once. It knows nothing of verifiers, policies or votes."""
