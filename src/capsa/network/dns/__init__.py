"""Name service of networks: one small process that answers the containers' queries, and the engine's end of it."""
