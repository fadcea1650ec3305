MIRROR_FROM_REP_DIR := lib/mk/vfs_cow.mk src/lib/vfs/cow LICENSE

content: $(MIRROR_FROM_REP_DIR)

$(MIRROR_FROM_REP_DIR):
	$(mirror_from_rep_dir)
