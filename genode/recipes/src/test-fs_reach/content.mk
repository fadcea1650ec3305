MIRROR_FROM_REP_DIR := src/test/fs_reach LICENSE

content: $(MIRROR_FROM_REP_DIR)

$(MIRROR_FROM_REP_DIR):
	$(mirror_from_rep_dir)
