TARGET = test-vfs_cow
SRC_CC = main.cc
LIBS   = base vfs
