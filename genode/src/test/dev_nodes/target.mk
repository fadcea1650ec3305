TARGET   = test-dev_nodes
SRC_CC   = main.cc
INC_DIR += $(REP_DIR)/src/lib/vfs/random
LIBS     = base vfs
