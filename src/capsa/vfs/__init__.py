"""The VFS tree of a container, and its lowerings."""
