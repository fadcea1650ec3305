/*
 * \brief  Copy-on-write file system on top of read-only ones
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

/* Genode includes */
#include <vfs/file_system_factory.h>

/* local includes */
#include "changes.h"
#include "dataspaces.h"
#include "layers.h"

namespace Vfs_cow { class File_system; }


class Vfs_cow::File_system : public Genode::Vfs::File_system
{
	private:

		using Found    = Stack::Found;
		using Progress = Files::Progress;

		Genode::Vfs::Env &_env;

		Allocator &_alloc { _env.alloc() };

		Layers _layers;

		Stack _stack { _env.io() };

		Upper _upper { _env.io(), _alloc, _layers.upper() };

		Listing_cache _listings { _alloc, _stack, _env.io() };

		Files _files { _env.io(), _alloc, _stack, _upper, _listings };

		Watches _watches { };

		Dataspaces _dataspaces { _alloc, _stack };

		Changes _changes { _stack, _upper, _listings, _files, _watches };

		enum class State { WAITING, COMPLETING, COMPLETE, FAILED } _state = State::WAITING;

		/*
		 * Noncopyable
		 */
		File_system(File_system const &);
		File_system &operator = (File_system const &);

		void _complete()
		{
			(void)_stack.add(_layers.upper(), _layers.num_lower() == 0, &_upper.index);

			_layers.for_each_lower([&] (Fs &fs, bool lowest) {
				(void)_stack.add(fs, lowest); });

			_stack.complete();
			_upper.clean_up();

			_state = State::COMPLETE;
		}

		/**
		 * Return whether there are files, which with 'late' is not so before
		 * somebody asks
		 *
		 * While this waits for I/O, who is called by an I/O signal is told that
		 * there are none yet. A stack that lacks a layer is none.
		 */
		bool _ready()
		{
			if (_state == State::WAITING) {
				_state = State::COMPLETING;
				try {
					_layers.make_late();
					_complete();
				}
				catch (...) {
					_state = State::FAILED;
					error("cow: late layers could not be made, there are no files");
				}
			}
			return _state == State::COMPLETE;
		}

		Found _lookup(Path const &path) { return _ready() ? _stack.lookup(path) : Found { }; }


		/*******************
		 ** Notifications **
		 *******************/

		Io_signal_handler<File_system> _progress_handler {
			_env.env().ep(), *this, &File_system::_handle_progress };

		void _handle_progress() { _env.user().wakeup_vfs_user(); }

		/**
		 * Let the user repeat a write although no I/O is awaited
		 */
		void _schedule_progress() { Signal_transmitter(_progress_handler).submit(); }

		void _content_changed(Open_file &file)
		{
			if (!file.modified) return;
			file.modified = false;
			if (!file.unlinked)
				_watches.notify(file.path);
		}

		/**
		 * \throw Out_of_ram
		 * \throw Out_of_caps
		 */
		Result _open_handle(Path const &path, Found const &found, unsigned mode,
		                    Vfs_handle *sub_ptr, Vfs_handle *&out, Allocator &alloc)
		{
			return _files.with(path, found, [&] (Open_file &file) {

				File_handle &handle = *new (alloc)
					File_handle(*this, alloc, mode & OPEN_MODE_ACCMODE, file, _stack);

				if (sub_ptr)
					handle.adopt(*sub_ptr);

				Result const result = handle.open();
				if (result != Result::OK)
					destroy(alloc, &handle);
				else
					out = &handle;
				return result;
			});
		}

		static Handle &_handle(Vfs_handle &handle) { return static_cast<Handle &>(handle); }

		static File_handle *_file_handle(Vfs_handle &handle) {
			return dynamic_cast<File_handle *>(&_handle(handle)); }

	public:

		File_system(Genode::Vfs::Env &env, Node const &config)
		:
			_env(env), _layers(env, config)
		{
			if (!_layers.late)
				_complete();
		}


		/*********************************
		 ** Directory-service interface **
		 *********************************/

		Dataspace_capability dataspace(char const *path_str) override
		{
			Path  const path(path_str);
			Found const found = _lookup(path);

			return found.file() ? _dataspaces.lend(path, found.layer) : Dataspace_capability();
		}

		void release(char const *, Dataspace_capability ds) override { _dataspaces.release(ds); }

		Open_result open(char const *path_str, unsigned mode,
		                 Vfs_handle **out, Allocator &alloc) override
		{
			Path  const path(path_str);
			Found       found = _lookup(path);

			Vfs_handle *created  = nullptr;
			bool        whiteout = false;

			if (mode & OPEN_MODE_CREATE) {

				if (!path.valid() || !path.name_fits()) return OPEN_ERR_NAME_TOO_LONG;
				if (path.reserved())                    return OPEN_ERR_NO_PERM;
				if (found.exists)                       return OPEN_ERR_EXISTS;
				if (!found.parent)                      return OPEN_ERR_UNACCESSIBLE;

				Result const result = _changes.add(path, found, [&] {
					unsigned const access = (mode & OPEN_MODE_ACCMODE) == OPEN_MODE_RDONLY
					                      ? OPEN_MODE_RDONLY : OPEN_MODE_RDWR;
					return Vfs_cow::result(_upper.open(path, access | OPEN_MODE_CREATE,
					                                 created, alloc)); });

				if (result == Result::OUT_OF_RAM || result == Result::OUT_OF_CAPS)
					_changes.undo_add(path, nullptr, found.whiteout);

				if (result != Result::OK)
					return open_result(result);

				whiteout = found.whiteout;

				found = { .parent = true, .exists = true,
				          .type = Node_type::CONTINUOUS_FILE, .layer = Stack::UPPER,
				          .stat = { }, .dirs = 0, .whiteout = false, .lower = found.lower };
				found.stat.type = Node_type::CONTINUOUS_FILE;
			}

			if (!found.file())
				return OPEN_ERR_UNACCESSIBLE;

			auto undo = [&] { if (created) _changes.undo_add(path, created, whiteout); };

			try {
				return open_result(_open_handle(path, found, mode, created, *out, alloc));
			}
			catch (Out_of_ram)  { undo(); return OPEN_ERR_OUT_OF_RAM; }
			catch (Out_of_caps) { undo(); return OPEN_ERR_OUT_OF_CAPS; }
			catch (...)         { undo(); return OPEN_ERR_NO_PERM; }
		}

		Opendir_result opendir(char const *path_str, bool create,
		                       Vfs_handle **out, Allocator &alloc) override
		{
			Path  const path(path_str);
			Found const found = _lookup(path);

			if (create) {

				if (!path.valid() || !path.name_fits()) return OPENDIR_ERR_NAME_TOO_LONG;
				if (path.reserved())                    return OPENDIR_ERR_PERMISSION_DENIED;
				if (found.exists)                       return OPENDIR_ERR_NODE_ALREADY_EXISTS;
				if (!found.parent)                      return OPENDIR_ERR_LOOKUP_FAILED;

				Result const result = _changes.add(path, found, [&] {
					return found.whiteout ? _upper.make_opaque_dir(path)
					                      : _upper.make_dir(path); });

				if (result != Result::OK)
					return opendir_result(result);

			} else if (!found.dir())
				return OPENDIR_ERR_LOOKUP_FAILED;

			auto undo = [&]
			{
				if (!create) return;
				if (found.whiteout)
					(void)_upper.make_marker(path.whiteout());
				(void)_upper.remove_dir(path);
				_changes.entry_changed(path);
			};

			try {
				*out = new (alloc) Dir_handle(*this, alloc, path, _listings, _stack);
				return OPENDIR_OK;
			}
			catch (Out_of_ram)  { undo(); return OPENDIR_ERR_OUT_OF_RAM; }
			catch (Out_of_caps) { undo(); return OPENDIR_ERR_OUT_OF_CAPS; }
		}

		Openlink_result openlink(char const *path_str, bool create,
		                         Vfs_handle **out, Allocator &alloc) override
		{
			Path  const path(path_str);
			Found       found = _lookup(path);

			Vfs_handle *created  = nullptr;
			bool        whiteout = false;

			if (create) {

				if (!path.valid() || !path.name_fits()) return OPENLINK_ERR_NAME_TOO_LONG;
				if (path.reserved())                    return OPENLINK_ERR_PERMISSION_DENIED;
				if (found.exists)                       return OPENLINK_ERR_NODE_ALREADY_EXISTS;
				if (!found.parent)                      return OPENLINK_ERR_LOOKUP_FAILED;

				Result const result = _changes.add(path, found, [&] {
					return Vfs_cow::result(_upper.openlink(path, true, created, alloc)); });

				if (result == Result::OUT_OF_RAM || result == Result::OUT_OF_CAPS)
					_changes.undo_add(path, nullptr, found.whiteout);

				if (result != Result::OK)
					return openlink_result(result);

				whiteout = found.whiteout;

				found = { .parent = true, .exists = true,
				          .type = Node_type::SYMLINK, .layer = Stack::UPPER,
				          .stat = { }, .dirs = 0, .whiteout = false, .lower = found.lower };
				found.stat.type = Node_type::SYMLINK;
			}

			if (!found.symlink())
				return OPENLINK_ERR_LOOKUP_FAILED;

			auto undo = [&] { if (created) _changes.undo_add(path, created, whiteout); };

			try {
				return openlink_result(_open_handle(path, found, OPEN_MODE_RDWR,
				                                     created, *out, alloc));
			}
			catch (Out_of_ram)  { undo(); return OPENLINK_ERR_OUT_OF_RAM; }
			catch (Out_of_caps) { undo(); return OPENLINK_ERR_OUT_OF_CAPS; }
			catch (...)         { undo(); return OPENLINK_ERR_PERMISSION_DENIED; }
		}

		void close(Vfs_handle *vfs_handle) override
		{
			File_handle * const handle = _file_handle(*vfs_handle);

			if (!handle) {
				destroy(vfs_handle->alloc(), &_handle(*vfs_handle));
				return;
			}

			Open_file &file = handle->file;

			bool const notify = handle->writeable();

			destroy(vfs_handle->alloc(), handle);

			/* nobody is left who would write to the copy */
			if (file.copy_up.constructed() && !file.writeable())
				file.copy_up.destruct();

			if (notify)
				_content_changed(file);

			_files.release(file);
		}

		Stat_result stat(char const *path_str, Stat &out) override
		{
			Found const found = _lookup(Path(path_str));

			if (!found.exists)
				return STAT_ERR_NO_ENTRY;

			out = found.stat;
			out.inode         = _stack.inode(found.layer, found.stat.inode);
			out.device        = (addr_t)this;
			out.rwx.writeable = true;
			return STAT_OK;
		}

		Unlink_result unlink(char const *path_str) override
		{
			Path  const path(path_str);
			Found const found = _lookup(path);

			if (!found.exists) return UNLINK_ERR_NO_ENTRY;
			if (path.root())   return UNLINK_ERR_NO_PERM;

			return _changes.remove(path, found);
		}

		Rename_result rename(char const *from_str, char const *to_str) override
		{
			return _ready() ? _changes.rename(Path(from_str), Path(to_str))
			                : RENAME_ERR_NO_ENTRY;
		}

		file_size num_dirent(char const *path_str) override
		{
			Path  const path(path_str);
			Found const found = _lookup(path);

			if (!found.dir())
				return 0;

			Listing  * const listing = _listings.acquire(path, found);
			file_size  const result  = listing ? listing->count() : 0;

			_listings.release(listing);
			return result;
		}

		bool directory(char const *path) override {
			return _lookup(Path(path)).dir(); }

		char const *leaf_path(char const *path) override {
			return _lookup(Path(path)).exists ? path : nullptr; }

		Watch_result watch(char const *path_str, Vfs_watch_handle **out,
		                   Allocator &alloc) override
		{
			Path const path(path_str);

			if (!_lookup(path).exists)
				return WATCH_ERR_UNACCESSIBLE;

			try {
				Watch_handle &handle = *new (alloc) Watch_handle(*this, alloc, path);
				_watches.insert(handle);
				*out = &handle;
				return WATCH_OK;
			}
			catch (Out_of_ram)  { return WATCH_ERR_OUT_OF_RAM; }
			catch (Out_of_caps) { return WATCH_ERR_OUT_OF_CAPS; }
		}

		void close(Vfs_watch_handle *vfs_handle) override
		{
			Watch_handle * const handle = static_cast<Watch_handle *>(vfs_handle);
			_watches.remove(*handle);
			destroy(handle->alloc(), handle);
		}


		/********************************
		 ** File I/O service interface **
		 ********************************/

		Write_result write(Vfs_handle *vfs_handle, Const_byte_range_ptr const &src,
		                   size_t &out) override
		{
			out = 0;

			File_handle * const handle = _file_handle(*vfs_handle);

			if (!handle || !handle->writeable())
				return WRITE_ERR_INVALID;

			auto fail = [&] { handle->failed = true; return WRITE_ERR_IO; };

			Open_file &file = handle->file;

			if (!file.in_upper() && file.symlink)
				return _files.replace_symlink(file, src, out) == Result::OK ? WRITE_OK : fail();

			/*
			 * The VFS server takes a blocked write to a file without a name as
			 * failed because it cannot look up the file's type.
			 */
			if (file.unlinked && _files.copy_up(file, file.stat.size) != Result::OK)
				return fail();

			if (!file.in_upper()) {

				Result error = Result::OK;

				switch (_files.step(file, file.stat.size, error)) {
				case Progress::DONE:    break;
				case Progress::BLOCKED: return WRITE_ERR_WOULD_BLOCK;
				case Progress::YIELD:   _schedule_progress(); return WRITE_ERR_WOULD_BLOCK;
				case Progress::FAILED:  return fail();
				}
			}

			Write_result const result = handle->write(src, out);

			switch (result) {

			case WRITE_OK:

				/* no progress is what a full file system has to say */
				if (out == 0 && src.num_bytes)
					return fail();

				file.modified = true;

				/* the maximum is used for appending */
				if (vfs_handle->seek() != ~0ULL)
					file.written = max(file.written, vfs_handle->seek() + out);
				break;

			case WRITE_ERR_WOULD_BLOCK:
				break;

			case WRITE_ERR_INVALID:
			case WRITE_ERR_IO:
				handle->failed = true;
				break;
			}
			return result;
		}

		bool queue_read(Vfs_handle *handle, size_t count) override {
			return _handle(*handle).queue_read(count); }

		Read_result complete_read(Vfs_handle *handle, Byte_range_ptr const &dst,
		                          size_t &out) override {
			return _handle(*handle).complete_read(dst, out); }

		bool read_ready(Vfs_handle const &vfs_handle) const override
		{
			bool result = true;
			if (auto const *handle = dynamic_cast<File_handle const *>(&vfs_handle))
				handle->with_const_sub([&] (Vfs_handle const &sub) {
					result = sub.fs().read_ready(sub); });
			return result;
		}

		bool write_ready(Vfs_handle const &vfs_handle) const override
		{
			auto const *handle = dynamic_cast<File_handle const *>(&vfs_handle);

			bool result = (handle != nullptr);
			if (handle && handle->file.in_upper())
				handle->with_const_sub([&] (Vfs_handle const &sub) {
					result = sub.fs().write_ready(sub); });
			return result;
		}

		bool notify_read_ready(Vfs_handle *vfs_handle) override
		{
			bool result = true;
			if (File_handle *handle = _file_handle(*vfs_handle))
				handle->with_sub([&] (Vfs_handle &sub) {
					result = sub.fs().notify_read_ready(&sub); });
			return result;
		}

		Ftruncate_result ftruncate(Vfs_handle *vfs_handle, file_size len) override
		{
			File_handle * const handle = _file_handle(*vfs_handle);

			if (!handle || !handle->writeable() || handle->file.symlink)
				return FTRUNCATE_ERR_NO_PERM;

			Open_file &file = handle->file;

			Result const copied = guarded(Result::NO_PERM, [&] { return _files.copy_up(file, len); });

			if (copied == Result::NO_SPACE || copied == Result::OUT_OF_RAM)
				return FTRUNCATE_ERR_NO_SPACE;
			if (copied != Result::OK)
				return FTRUNCATE_ERR_NO_PERM;

			Ftruncate_result result = FTRUNCATE_ERR_NO_PERM;

			handle->with_sub([&] (Vfs_handle &sub) {
				result = guarded(FTRUNCATE_ERR_NO_SPACE, [&] {
					return sub.fs().ftruncate(&sub, len); }); });

			if (result != FTRUNCATE_OK)
				return result;

			file.written  = 0;
			file.modified = true;

			/* a File_system session may lose the error */
			Stat stat { };
			if (!file.transactional()
			 && (!_upper.stat(file.path, stat) || stat.size != len))
				return FTRUNCATE_ERR_NO_SPACE;

			return FTRUNCATE_OK;
		}

		bool queue_sync(Vfs_handle *handle) override {
			return _handle(*handle).queue_sync(); }

		Sync_result complete_sync(Vfs_handle *vfs_handle) override
		{
			Sync_result const result = _handle(*vfs_handle).complete_sync();

			if (result != SYNC_QUEUED)
				if (File_handle *handle = _file_handle(*vfs_handle))
					_content_changed(handle->file);

			return result;
		}

		bool update_modification_timestamp(Vfs_handle *vfs_handle, Timestamp time) override
		{
			File_handle * const handle = _file_handle(*vfs_handle);

			if (!handle)
				return _upper.stamp_dir(static_cast<Dir_handle &>(*vfs_handle).path, time);

			if (!handle->writeable())
				return false;

			/*
			 * The user repeats a request that was refused. So a failure that
			 * will not go away is reported by the next sync instead.
			 */
			if (guarded(Result::NO_PERM, [&] {
				return _files.copy_up(handle->file, handle->file.stat.size); }) != Result::OK) {
				handle->failed = true;
				return true;
			}

			bool result = true;
			handle->with_sub([&] (Vfs_handle &sub) {
				result = sub.fs().update_modification_timestamp(&sub, time); });

			handle->file.modified = true;
			return result;
		}


		/***************************
		 ** File_system interface **
		 ***************************/

		static char const *name()   { return "cow"; }
		char const *type() override { return "cow"; }

		void apply_config(Node const &config) override
		{
			_layers.apply_config(config);
		}

};


extern "C" Genode::Vfs::File_system_factory *vfs_file_system_factory(void)
{
	using namespace Genode;

	struct Factory : Vfs::File_system_factory
	{
		Vfs::File_system *create(Vfs::Env &env, Node const &config) override
		{
			return new (env.alloc()) Vfs_cow::File_system(env, config);
		}
	};

	static Factory factory;
	return &factory;
}
