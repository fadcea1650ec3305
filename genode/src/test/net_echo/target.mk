TARGET = test-net_echo
SRC_CC = main.cc
LIBS   = base
