/*
 * \brief  Open files
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

#ifndef _COW__FILES_H_
#define _COW__FILES_H_

/* local includes */
#include "handle.h"

namespace Vfs_cow { class Files; }


class Vfs_cow::Files : Noncopyable
{
	public:

		using Progress = Copy_up::Progress;

	private:

		Genode::Vfs::Env::Io &_io;
		Allocator            &_alloc;
		Stack                &_stack;
		Upper                &_upper;
		Listing_cache        &_listings;

		List<Open_file> _files { };

		Result _copy_symlink(Open_file &file)
		{
			char     target[MAX_PATH_LEN] { };
			size_t   count = 0;
			Vfs_handle *handle = nullptr;
			Layer const &layer = _stack.layer(file.layer);

			Result result = Vfs_cow::result(guarded(Directory_service::OPENLINK_ERR_LOOKUP_FAILED, [&] {
				return layer.fs.openlink(file.lower_path.string(), false, &handle, _alloc); }));

			if (result != Result::OK)
				return result;

			{
				Vfs_handle::Guard guard { handle };

				while (!handle->fs().queue_read(handle, sizeof(target)))
					_io.commit_and_wait();

				File_io_service::Read_result read;
				while ((read = handle->fs().complete_read(handle,
				               Byte_range_ptr(target, sizeof(target)), count)) == File_io_service::READ_QUEUED)
					_io.commit_and_wait();

				if (read != File_io_service::READ_OK)
					return Result::IO_ERROR;
			}

			/* a tar archive delivers its padding too */
			target[min(count, sizeof(target) - 1)] = 0;
			Const_byte_range_ptr const content(target, strlen(target) + 1);

			result = copy_up_symlink(_io, _alloc, _upper, content, file.path);
			if (result == Result::OK) {
				file.moved_to_upper();
				_listings.invalidate(file.path.parent());
			}
			return result;
		}

	public:

		Files(Genode::Vfs::Env::Io &io, Allocator &alloc, Stack &stack,
		      Upper &upper, Listing_cache &listings)
		: _io(io), _alloc(alloc), _stack(stack), _upper(upper), _listings(listings) { }

		/**
		 * Return open file that has the name 'path'
		 */
		Open_file *find(Path const &path)
		{
			for (Open_file *ptr = _files.first(); ptr; ptr = ptr->next())
				if (!ptr->unlinked && ptr->path == path)
					return ptr;
			return nullptr;
		}

		/**
		 * Call 'fn' with the open file of 'path', which is made if needed
		 *
		 * \throw Out_of_ram
		 * \throw Out_of_caps
		 */
		auto with(Path const &path, Stack::Found const &found, auto const &fn)
		{
			Open_file *file_ptr = find(path);
			if (!file_ptr) {
				file_ptr = new (_alloc) Open_file(path, found);
				_files.insert(file_ptr);
			}

			struct Guard
			{
				Files &files; Open_file &file;
				~Guard() { files.release(file); }
			} guard { *this, *file_ptr };

			return fn(*file_ptr);
		}

		void release(Open_file &file)
		{
			if (file.handles.first()) return;

			/* nobody can reach it anymore */
			if (file.unlinked && file.layer == Stack::UPPER)
				_upper.unlink(file.path);

			_files.remove(&file);
			destroy(_alloc, &file);
		}

		static void reopen(Open_file &file)
		{
			file.generation++;
			for (File_handle *ptr = file.handles.first(); ptr; ptr = ptr->next())
				ptr->open();
		}

		/**
		 * Advance the copy of a file that the upper layer lacks
		 */
		Progress step(Open_file &file, file_size size, Result &error)
		{
			if (!file.copy_up.constructed())
				file.copy_up.construct(_io, _alloc, _upper, _stack.layer(file.layer),
				                       file.lower_path, file.path, file.stat, size);

			Progress const progress = file.copy_up->step();

			if (progress == Progress::DONE) {
				file.copy_up.destruct();
				file.moved_to_upper();
				_listings.invalidate(file.path.parent());
			}
			if (progress == Progress::FAILED) {
				error = file.copy_up->error();
				file.copy_up.destruct();
			}
			return progress;
		}

		/**
		 * Copy file up, waiting for I/O as needed
		 */
		Result copy_up(Open_file &file, file_size size)
		{
			if (file.in_upper())
				return Result::OK;

			if (file.symlink)
				return _copy_symlink(file);

			Result error = Result::OK;
			for (;;) switch (step(file, size, error)) {
			case Progress::DONE:    return Result::OK;
			case Progress::FAILED:  return error;
			case Progress::YIELD:   break;
			case Progress::BLOCKED: _io.commit_and_wait(); break;
			}
		}

		/**
		 * Let symlink of a lower layer have another target
		 */
		Result replace_symlink(Open_file &file, Const_byte_range_ptr const &target, size_t &out)
		{
			Result const result = guarded(Result::NO_PERM, [&] {
				return copy_up_symlink(_io, _alloc, _upper, target, file.path); });

			if (result == Result::OK) {
				out = target.num_bytes;
				file.moved_to_upper();
				file.modified = true;
				_listings.invalidate(file.path.parent());
			}
			return result;
		}

		/**
		 * Detach open file from its name
		 *
		 * The file is moved to the work directory and removed once it is
		 * closed. So it does not matter how the file system of the upper layer
		 * treats the removal of an open file.
		 */
		Result detach(Open_file &file)
		{
			Path hidden { };

			Result const result = _upper.work_path(hidden);
			if (result != Result::OK)
				return result;

			if (file.layer == Stack::UPPER && _upper.move(file.path, hidden) != Directory_service::RENAME_OK)
				return Result::NO_PERM;

			/* the copy would appear under the name that is gone */
			file.copy_up.destruct();

			file.path     = hidden;
			file.unlinked = true;

			if (file.layer == Stack::UPPER)
				reopen(file);

			return Result::OK;
		}

		/**
		 * Note that a directory of the upper layer was renamed
		 */
		void dir_moved(Path const &from, Path const &to)
		{
			for (Open_file *ptr = _files.first(); ptr; ptr = ptr->next())
				if (!ptr->unlinked && ptr->path.in(from)) {
					ptr->path = ptr->path.moved(from, to);
					reopen(*ptr);
				}
		}
};

#endif /* _COW__FILES_H_ */
