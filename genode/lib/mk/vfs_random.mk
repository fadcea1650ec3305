SRC_CC = plugin.cc

vpath %.cc $(REP_DIR)/src/lib/vfs/random

LIBS = vfs

SHARED_LIB = yes
