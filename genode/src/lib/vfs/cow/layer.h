/*
 * \brief  One file system of the stack
 * \author the capsa authors
 * \date   2026-11-29
 */

/*
 * Copyright (C) 2026 the capsa authors
 *
 * This file is part of capsa. It is combined with the Genode OS framework
 * and distributed under the terms of the GNU Affero General Public License
 * version 3.
 */

#ifndef _COW__LAYER_H_
#define _COW__LAYER_H_

/* Genode includes */
#include <vfs/file_system.h>

/* local includes */
#include "path.h"

namespace Vfs_cow {

	using Fs          = Genode::Vfs::File_system;
	using Stat        = Directory_service::Stat;
	using Dirent      = Directory_service::Dirent;
	using Dirent_type = Directory_service::Dirent_type;

	struct Layer;

	class Index;

	/**
	 * Call 'fn', which uses the file system of a layer, and turn the
	 * exceptions that some file systems let through into a result
	 */
	template <typename RESULT>
	static inline RESULT guarded(RESULT on_exception, auto const &fn)
	{
		try { return fn(); } catch (...) { return on_exception; }
	}
}


/**
 * Layers are numbered from the uppermost one, which is the writable one
 */
struct Vfs_cow::Layer
{
	Fs &fs;

	bool const lowest;

	/* knows what the layer does not have, if the layer is the writable one */
	Index * const index_ptr;

	inline bool absent(Path const &) const;

	bool _exists(Path const &path) const
	{
		return path.valid() && !absent(path)
		    && guarded(false, [&] { return fs.leaf_path(path.string()) != nullptr; });
	}

	bool stat(Path const &path, Stat &out) const
	{
		return !absent(path) && guarded(Directory_service::STAT_ERR_NO_ENTRY, [&] {
			return fs.stat(path.string(), out); }) == Directory_service::STAT_OK;
	}

	/* there is nothing that a marker in the lowest layer could hide */
	bool whiteout(Path const &path) const { return !lowest && _exists(path.whiteout()); }
	bool opaque  (Path const &dir)  const { return !lowest && _exists(dir.opaque()); }

	/**
	 * Call 'fn' with each entry of the directory, markers included
	 *
	 * This may wait for I/O.
	 *
	 * \return false if the directory could not be read completely
	 */
	bool for_each_entry(Genode::Vfs::Env::Io &io, Allocator &alloc,
	                    Path const &dir, auto const &fn) const
	{
		using Opendir_result = Directory_service::Opendir_result;
		using Read_result    = File_io_service::Read_result;

		Vfs_handle *handle_ptr = nullptr;

		if (guarded(Directory_service::OPENDIR_ERR_LOOKUP_FAILED, [&] {
			return fs.opendir(dir.string(), false, &handle_ptr, alloc); })
		 != Opendir_result::OPENDIR_OK)
			return false;

		Vfs_handle::Guard guard { handle_ptr };

		file_size const num = guarded(0ULL, [&] { return fs.num_dirent(dir.string()); });

		for (file_size i = 0; i < num; i++) {

			Dirent dirent { };
			size_t count = 0;

			handle_ptr->seek(i*sizeof(Dirent));

			while (!handle_ptr->fs().queue_read(handle_ptr, sizeof(dirent)))
				io.commit_and_wait();

			Read_result result;
			for (;;) {
				result = handle_ptr->fs().complete_read(handle_ptr,
					Byte_range_ptr((char *)&dirent, sizeof(dirent)), count);

				if (result != Read_result::READ_QUEUED
				 && result != Read_result::READ_ERR_WOULD_BLOCK)
					break;

				io.commit_and_wait();
			}

			if (result != Read_result::READ_OK)
				return false;

			/*
			 * An entry of type END within the announced number is one that
			 * the file system cannot express, e.g., a device node of a tar
			 * archive.
			 */
			if (count < sizeof(dirent) || dirent.type == Dirent_type::END)
				continue;

			dirent.sanitize();

			if (strcmp(dirent.name.buf, ".")  == 0
			 || strcmp(dirent.name.buf, "..") == 0)
				continue;

			fn(dirent);
		}
		return true;
	}
};

#endif /* _COW__LAYER_H_ */
