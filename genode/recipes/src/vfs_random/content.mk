MIRROR_FROM_REP_DIR := lib/mk/vfs_random.mk src/lib/vfs/random LICENSE

content: $(MIRROR_FROM_REP_DIR)

$(MIRROR_FROM_REP_DIR):
	$(mirror_from_rep_dir)
