TARGET = log_file
SRC_CC = main.cc
LIBS   = base vfs
