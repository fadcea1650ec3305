TARGET   = fifo_terminal
REQUIRES = linux
SRC_CC   = main.cc
LIBS     = lx_hybrid
