"""The capsa command: docker's verbs, spoken to an engine over its socket."""
