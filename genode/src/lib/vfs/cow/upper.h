/*
 * \brief  Operations on the writable layer
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

#ifndef _COW__UPPER_H_
#define _COW__UPPER_H_

/* local includes */
#include "index.h"
#include "result.h"

namespace Vfs_cow {

	class Upper;
}


/**
 * The changes are made such that the directory tree is consistent at any time
 *
 * Whatever consists of several steps is prepared in the work directory and
 * moved to its place by one rename. A whiteout is made before the entry that
 * it stands for is removed, and removed after the entry that replaces it was
 * made: an entry takes precedence over the whiteout of the same layer.
 */
class Vfs_cow::Upper : Noncopyable
{
	private:

		using Open_result     = Directory_service::Open_result;
		using Opendir_result  = Directory_service::Opendir_result;
		using Openlink_result = Directory_service::Openlink_result;
		using Unlink_result   = Directory_service::Unlink_result;
		using Rename_result   = Directory_service::Rename_result;

		Genode::Vfs::Env::Io &_io;

		Allocator &_alloc;

		/* asks the file system in any case */
		Layer const _layer;

		bool _work_dir_exists = false;

		unsigned long _count = 0;

		using Name = String<32>;

		Name _unique_name() { return Name(Path::MARKER_PREFIX, ".wh.", ++_count); }

		static Path _work_dir() { return Path(Path(), Path::WORK_NAME); }

		void _remove_content(Path const &dir)
		{
			/*
			 * Each round removes the entries seen in it. The number of rounds
			 * is limited for the case that an entry cannot be removed.
			 */
			for (unsigned round = 0; round < 3; round++) {

				bool empty = true;

				_layer.for_each_entry(_io, _alloc, dir, [&] (Dirent const &dirent) {
					empty = false;
					Path const path(dir, dirent.name.buf);
					if (!path.valid())
						return;
					if (dirent.type == Dirent_type::DIRECTORY)
						_remove_content(path);
					_unlink(path);
				});

				if (empty)
					return;
			}
		}

		Unlink_result _unlink(Path const &path)
		{
			Unlink_result const result = guarded(Directory_service::UNLINK_ERR_NO_PERM, [&] {
				return fs.unlink(path.string()); });

			/* some file systems claim success without having removed anything */
			if (result == Unlink_result::UNLINK_OK && exists(path))
				return Unlink_result::UNLINK_ERR_NO_PERM;

			if (result == Unlink_result::UNLINK_OK)
				index.removed(path);

			return result;
		}

	public:

		Fs &fs;

		Index index { _io, _alloc, fs };

		/**
		 * Set to false as soon as the file system was seen to store a
		 * modification time other than the one it was given
		 */
		bool keeps_mtime = true;

		Upper(Genode::Vfs::Env::Io &io, Allocator &alloc, Fs &fs)
		: _io(io), _alloc(alloc), _layer { fs, false, nullptr }, fs(fs) { }

		bool exists(Path const &path) const { return _layer._exists(path); }

		bool stat(Path const &path, Stat &out) const { return _layer.stat(path, out); }

		bool directory(Path const &path) const
		{
			Stat stat { };
			return _layer.stat(path, stat) && stat.type == Node_type::DIRECTORY;
		}

		/**
		 * Drop what an interrupted operation has left behind
		 */
		void clean_up()
		{
			if (!exists(_work_dir()))
				return;

			_remove_content(_work_dir());
			_work_dir_exists = true;
		}

		Open_result open(Path const &path, unsigned mode, Vfs_handle *&out, Allocator &alloc)
		{
			try {
				Open_result const result = fs.open(path.string(), mode, &out, alloc);
				if (result == Open_result::OPEN_OK)
					index.added(path);
				return result;
			}
			catch (Out_of_ram)  { return Open_result::OPEN_ERR_OUT_OF_RAM; }
			catch (Out_of_caps) { return Open_result::OPEN_ERR_OUT_OF_CAPS; }
			catch (...)         { return Open_result::OPEN_ERR_NO_PERM; }
		}

		Openlink_result openlink(Path const &path, bool create, Vfs_handle *&out, Allocator &alloc)
		{
			try {
				Openlink_result const result = fs.openlink(path.string(), create, &out, alloc);
				if (result == Openlink_result::OPENLINK_OK)
					index.added(path);
				return result;
			}
			catch (Out_of_ram)  { return Openlink_result::OPENLINK_ERR_OUT_OF_RAM; }
			catch (Out_of_caps) { return Openlink_result::OPENLINK_ERR_OUT_OF_CAPS; }
			catch (...)         { return Openlink_result::OPENLINK_ERR_PERMISSION_DENIED; }
		}

		Result make_dir(Path const &path)
		{
			if (!path.valid() || !path.name_fits())
				return Result::NAME_TOO_LONG;

			Vfs_handle *handle = nullptr;
			Result const made = guarded(Result::NO_PERM, [&] {
				return Vfs_cow::result(fs.opendir(path.string(), true, &handle, _alloc)); });

			if (made == Result::OK && handle)
				handle->close();

			if (made == Result::OK)
				index.added(path);

			return made;
		}

		/**
		 * Make sure that each directory above 'path' exists in the layer
		 */
		Result make_parents(Path const &path)
		{
			/* usually, they exist already */
			if (path.root() || path.parent().root() || directory(path.parent()))
				return Result::OK;

			Result made = Result::OK;
			path.parent().for_each_prefix([&] (Path const &dir, bool) {
				if (!directory(dir))
					made = make_dir(dir);
				return made == Result::OK;
			});
			return made;
		}

		/**
		 * Make an empty file
		 */
		Result make_marker(Path const &path)
		{
			if (!path.valid() || !path.name_fits())
				return Result::NAME_TOO_LONG;

			Vfs_handle *handle = nullptr;
			Result const made = Vfs_cow::result(open(path, Directory_service::OPEN_MODE_WRONLY |
			                                      Directory_service::OPEN_MODE_CREATE,
			                                handle, _alloc));
			if (made == Result::OK)
				handle->close();

			return made == Result::EXISTS ? Result::OK : made;
		}

		void remove_marker(Path const &path) { if (exists(path)) _unlink(path); }

		/**
		 * Make path for preparing something that is moved to its place later
		 */
		Result work_path(Path &out)
		{
			if (!_work_dir_exists) {
				Result const made = make_dir(_work_dir());
				if (made != Result::OK && made != Result::EXISTS)
					return made;
				_work_dir_exists = true;
			}
			out = Path(_work_dir(), _unique_name().string());
			return Result::OK;
		}

		Rename_result move(Path const &from, Path const &to)
		{
			Rename_result const result = guarded(Directory_service::RENAME_ERR_NO_PERM, [&] {
				return fs.rename(from.string(), to.string()); });

			if (result == Directory_service::RENAME_OK) {
				index.removed(from);
				index.removed(to);
				index.added(to);
			}
			return result;
		}

		Result unlink(Path const &path)
		{
			return _unlink(path) == Unlink_result::UNLINK_OK ? Result::OK : Result::NO_PERM;
		}

		/**
		 * Remove directory that contains nothing but markers
		 */
		Result remove_dir(Path const &path)
		{
			Path trash { };
			Result const made = work_path(trash);
			if (made != Result::OK)
				return made;

			if (move(path, trash) != Rename_result::RENAME_OK)
				return Result::NO_PERM;

			/* what cannot be removed now is removed by the next 'clean_up' */
			_remove_content(trash);
			_unlink(trash);
			return Result::OK;
		}

		/**
		 * Make directory that shows nothing of the layers below
		 */
		Result make_opaque_dir(Path const &path)
		{
			Path work { };
			Result made = work_path(work);

			if (made == Result::OK) made = make_dir(work);
			if (made == Result::OK) made = make_marker(work.opaque());
			if (made == Result::OK && move(work, path) != Rename_result::RENAME_OK)
				made = Result::NO_PERM;

			if (made != Result::OK && exists(work)) {
				_remove_content(work);
				_unlink(work);
			}
			return made;
		}

		/**
		 * Set modification time of a directory, which is made if needed
		 */
		bool stamp_dir(Path const &path, Timestamp time)
		{
			if (path.root())
				return true;

			Vfs_handle *handle = nullptr;

			Result result = make_parents(path);
			if (result == Result::OK && !directory(path))
				result = make_dir(path);
			if (result == Result::OK)
				result = guarded(Result::NO_PERM, [&] {
					return Vfs_cow::result(fs.opendir(path.string(), false, &handle, _alloc)); });

			if (result != Result::OK)
				return false;

			Vfs_handle::Guard guard { handle };
			return handle->fs().update_modification_timestamp(handle, time);
		}
};

#endif /* _COW__UPPER_H_ */
