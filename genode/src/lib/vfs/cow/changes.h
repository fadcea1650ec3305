/*
 * \brief  Changes of the directory tree
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

#ifndef _COW__CHANGES_H_
#define _COW__CHANGES_H_

/* local includes */
#include "files.h"
#include "watches.h"

namespace Vfs_cow { class Changes; }


class Vfs_cow::Changes : Noncopyable
{
	public:

		using Found         = Stack::Found;
		using Unlink_result = Directory_service::Unlink_result;
		using Rename_result = Directory_service::Rename_result;

	private:

		Stack         &_stack;
		Upper         &_upper;
		Listing_cache &_listings;
		Files         &_files;
		Watches       &_watches;

		/**
		 * Hide what the lower layers have at 'path'
		 */
		Result _hide(Path const &path, Found const &found)
		{
			if (!found.lower)
				return Result::OK;

			Result const result = _upper.make_parents(path);
			return result == Result::OK ? _upper.make_marker(path.whiteout()) : result;
		}

		bool _has_entries(Path const &path, Found const &found)
		{
			Listing * const listing = _listings.acquire(path, found);

			/* do not remove what cannot be looked at */
			bool const result = !listing || !listing->complete() || listing->count();

			_listings.release(listing);
			return result;
		}

		Rename_result _rename_dir(Path const &from, Path const &to,
		                          Found const &f, Found const &t)
		{
			if (t.exists && !t.dir())
				return Directory_service::RENAME_ERR_NO_PERM;

			/*
			 * A directory that shows content of a lower layer cannot be moved
			 * without copying all of it. The error tells the user to do so.
			 */
			bool const merged = (f.dirs & ~(1ULL << Stack::UPPER)) != 0;
			if (merged || !f.in_upper())
				return Directory_service::RENAME_ERR_CROSS_FS;

			if (t.exists && remove(to, t) != Directory_service::UNLINK_OK)
				return Directory_service::RENAME_ERR_NO_PERM;

			if (_upper.make_parents(to) != Result::OK)
				return Directory_service::RENAME_ERR_NO_PERM;

			/* nothing of a lower layer must show up at the new place */
			if ((t.lower || t.whiteout) && _upper.make_marker(from.opaque()) != Result::OK)
				return Directory_service::RENAME_ERR_NO_PERM;

			if (_hide(from, f) != Result::OK)
				return Directory_service::RENAME_ERR_NO_PERM;

			if (_upper.move(from, to) != Directory_service::RENAME_OK) {
				if (f.lower) _upper.remove_marker(from.whiteout());
				return Directory_service::RENAME_ERR_NO_PERM;
			}

			_upper.remove_marker(to.whiteout());

			_files.dir_moved(from, to);

			return Directory_service::RENAME_OK;
		}

		Rename_result _rename_file(Path const &from, Path const &to,
		                           Found const &f, Found const &t)
		{
			if (t.dir())
				return Directory_service::RENAME_ERR_NO_PERM;

			Result result = _files.with(from, f, [&] (Open_file &file) {
				return _files.copy_up(file, file.stat.size); });

			if (result != Result::OK)
				return Directory_service::RENAME_ERR_NO_PERM;

			if (_upper.make_parents(to) != Result::OK || _hide(from, f) != Result::OK)
				return Directory_service::RENAME_ERR_NO_PERM;

			/*
			 * The replacement is atomic unless the replaced file is open. Not
			 * all file systems can replace an open file, and one that is
			 * reached by a session does not tell.
			 */
			if (Open_file * const replaced = _files.find(to)) {
				if (_files.detach(*replaced) != Result::OK) {
					if (f.lower) _upper.remove_marker(from.whiteout());
					return Directory_service::RENAME_ERR_NO_PERM;
				}
			}

			if (_upper.move(from, to) != Directory_service::RENAME_OK) {
				if (f.lower) _upper.remove_marker(from.whiteout());
				return Directory_service::RENAME_ERR_NO_PERM;
			}

			if (t.whiteout)
				_upper.remove_marker(to.whiteout());

			if (Open_file * const file = _files.find(from)) {
				file->path = to;
				_files.reopen(*file);
			}
			return Directory_service::RENAME_OK;
		}

	public:

		Changes(Stack &stack, Upper &upper, Listing_cache &listings,
		        Files &files, Watches &watches)
		:
			_stack(stack), _upper(upper), _listings(listings),
			_files(files), _watches(watches)
		{ }

		/**
		 * Note that an entry was added, removed, or replaced
		 */
		void entry_changed(Path const &path)
		{
			_listings.invalidate(path.parent());
			_listings.invalidate(path, true);
			_watches.notify(path);
			_watches.notify(path.parent());
		}

		/**
		 * Call 'fn' to make an entry in the upper layer that hides what the
		 * lower ones have
		 */
		Result add(Path const &path, Found const &found, auto const &fn)
		{
			if (!path.name_fits())
				return Result::NAME_TOO_LONG;

			Result result = _upper.make_parents(path);

			if (result == Result::OK)
				result = fn();

			if (result == Result::OK) {
				if (found.whiteout)
					_upper.remove_marker(path.whiteout());
				entry_changed(path);
			}
			return result;
		}

		Unlink_result remove(Path const &path, Found const &found)
		{
			if (found.dir() && _has_entries(path, found))
				return Directory_service::UNLINK_ERR_NOT_EMPTY;

			if (_hide(path, found) != Result::OK)
				return Directory_service::UNLINK_ERR_NO_PERM;

			Open_file * const file = _files.find(path);

			Result const result = file             ? _files.detach(*file)
			                    : !found.in_upper() ? Result::OK
			                    : found.dir()       ? _upper.remove_dir(path)
			                                        : _upper.unlink(path);
			if (result != Result::OK) {
				if (found.lower)
					_upper.remove_marker(path.whiteout());
				return Directory_service::UNLINK_ERR_NO_PERM;
			}

			entry_changed(path);
			return Directory_service::UNLINK_OK;
		}

		/**
		 * Remove new file or symlink that the user does not get a handle of
		 *
		 * The user may repeat the creation, e.g., after providing resources.
		 */
		void undo_add(Path const &path, Vfs_handle *created_ptr, bool whiteout)
		{
			if (created_ptr)
				created_ptr->close();

			/* a file system may have made the file but not its handle */
			if (!_upper.exists(path))
				return;

			if (whiteout)
				(void)_upper.make_marker(path.whiteout());

			_upper.unlink(path);
			entry_changed(path);
		}

		Rename_result rename(Path const &from, Path const &to)
		{
			Found const f = _stack.lookup(from);

			if (!f.exists)
				return Directory_service::RENAME_ERR_NO_ENTRY;

			if (from == to)
				return Directory_service::RENAME_OK;

			if (from.root() || to.root() || !to.valid() || !to.name_fits() || to.reserved())
				return Directory_service::RENAME_ERR_NO_PERM;

			Found const t = _stack.lookup(to);

			if (!t.parent)
				return Directory_service::RENAME_ERR_NO_ENTRY;

			if (to.in(from))
				return Directory_service::RENAME_ERR_NO_PERM;

			Rename_result const result = guarded(Directory_service::RENAME_ERR_NO_PERM, [&] {
				return f.dir() ? _rename_dir (from, to, f, t)
				               : _rename_file(from, to, f, t); });

			if (result == Directory_service::RENAME_OK) {
				entry_changed(from);
				entry_changed(to);
			}
			return result;
		}
};

#endif /* _COW__CHANGES_H_ */
