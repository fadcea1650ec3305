"""``capsa-runtime``: an OCI runtime on the command line, in the place of runc and crun.

What it does is what the engine's sub-inits do (`capsa.platform.linux`); here it is done by one process for each step
of a container's life, with a directory for the state between them, and whoever calls it is the container's parent.
"""
