TARGET   = tap_nic
REQUIRES = linux
SRC_CC   = main.cc
LIBS     = lx_hybrid
