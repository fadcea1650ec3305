"""How our programs begin: a launcher, and the snapshot from which it goes on."""
