"""Many problems on several replicas of a model, by Ray: each replica is the same loop, and problems are what moves."""
