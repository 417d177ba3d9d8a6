"""Many problems on several replicas of a model, by Ray: each replica runs the same loop on its share of the problems."""
