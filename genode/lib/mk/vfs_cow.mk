SRC_CC = plugin.cc

vpath %.cc $(REP_DIR)/src/lib/vfs/cow

LIBS = vfs

SHARED_LIB = yes
