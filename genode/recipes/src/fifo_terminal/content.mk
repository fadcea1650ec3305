MIRROR_FROM_REP_DIR := src/server/fifo_terminal LICENSE

content: $(MIRROR_FROM_REP_DIR)

$(MIRROR_FROM_REP_DIR):
	$(mirror_from_rep_dir)
