TARGET = test-fs_reach
SRC_CC = main.cc
LIBS   = base
