MIRROR_FROM_REP_DIR := src/test/dev_nodes src/lib/vfs/random/chacha20.h LICENSE

content: $(MIRROR_FROM_REP_DIR)

$(MIRROR_FROM_REP_DIR):
	$(mirror_from_rep_dir)
