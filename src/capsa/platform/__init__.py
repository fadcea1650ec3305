"""Where containers run: config goes down, report comes up."""
