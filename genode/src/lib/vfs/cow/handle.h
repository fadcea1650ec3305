/*
 * \brief  Handles given to the user of the VFS
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

#ifndef _COW__HANDLE_H_
#define _COW__HANDLE_H_

/* local includes */
#include "copy_up.h"
#include "listing.h"

namespace Vfs_cow {

	class Open_file;
	class File_handle;
	struct Handle;
	struct Dir_handle;
}


struct Vfs_cow::Handle : Vfs_handle
{
	using Vfs_handle::Vfs_handle;

	using Io          = File_io_service;
	using Read_result = File_io_service::Read_result;
	using Sync_result = File_io_service::Sync_result;

	virtual bool queue_read(size_t count) = 0;
	virtual Read_result complete_read(Byte_range_ptr const &, size_t &out) = 0;
	virtual bool queue_sync() = 0;
	virtual Sync_result complete_sync() = 0;
};


struct Vfs_cow::Dir_handle : Handle
{
	Path const path;

	Listing_cache &cache;

	Stack &stack;

	Listing *listing_ptr = nullptr;

	Dir_handle(Fs &fs, Allocator &alloc, Path const &path, Listing_cache &cache, Stack &stack)
	: Handle(fs, fs, alloc, STATUS_RDONLY), path(path), cache(cache), stack(stack) { }

	Dir_handle(Dir_handle const &) = delete;
	Dir_handle &operator = (Dir_handle const &) = delete;

	~Dir_handle() { cache.release(listing_ptr); }

	bool queue_read(size_t) override { return true; }

	Read_result complete_read(Byte_range_ptr const &dst, size_t &out) override
	{
		out = 0;

		if (dst.num_bytes < sizeof(Dirent))
			return File_io_service::READ_ERR_INVALID;

		/* who reads from the start wants to know the current state */
		if (seek() == 0 || !listing_ptr) {

			Stack::Found const found = stack.lookup(path);

			cache.release(listing_ptr);
			listing_ptr = found.dir() ? cache.acquire(path, found) : nullptr;

			if (!listing_ptr || !listing_ptr->complete())
				return File_io_service::READ_ERR_IO;
		}

		Dirent &dirent = *(Dirent *)dst.start;

		if (!listing_ptr->with_entry(seek()/sizeof(Dirent),
		                             [&] (Dirent const &entry) { dirent = entry; }))
			dirent = { .fileno = 0, .type = Dirent_type::END, .rwx = { }, .name = { } };

		out = sizeof(Dirent);
		return File_io_service::READ_OK;
	}

	bool queue_sync() override { return true; }

	Sync_result complete_sync() override { return File_io_service::SYNC_OK; }
};


/**
 * File or symlink that is referred to by at least one handle
 */
class Vfs_cow::Open_file : Noncopyable, public List<Open_file>::Element
{
	public:

		Path     path;        /* in the upper layer, even if it is not there yet */
		Path     lower_path;  /* where it was found */
		bool     symlink;
		bool     unlinked = false;
		bool     modified = false;  /* since the last notification */
		unsigned layer;
		Stat     stat;              /* of the lower file */

		/* incremented whenever the handles have to be opened anew */
		unsigned generation = 0;

		/* end of what was written but not synced, 0 if nothing was */
		file_size written = 0;

		List<File_handle> handles { };

		Constructible<Copy_up> copy_up { };

		/* device nodes are used, not copied */
		bool transactional() const { return stat.type == Node_type::TRANSACTIONAL_FILE; }

		bool in_upper() const { return layer == Stack::UPPER || transactional(); }

		Open_file(Path const &path, Stack::Found const &found)
		:
			path(path), lower_path(path), symlink(found.symlink()), layer(found.layer), stat(found.stat)
		{ }

		inline bool writeable() const;

		/**
		 * Path at the layer that has the file
		 */
		Path const &layer_path() const { return layer == Stack::UPPER ? path : lower_path; }

		void moved_to_upper()
		{
			layer = Stack::UPPER;
			generation++;
		}
};


/**
 * Handle of a file or symlink, backed by a handle at the layer that has it
 */
class Vfs_cow::File_handle : public Handle, private List<File_handle>::Element
{
	private:

		friend class List<File_handle>;
		friend class List<File_handle>::Element;

		Stack &_stack;

		Vfs_handle *_sub_ptr  = nullptr;
		Vfs_handle *_read_ptr = nullptr; /* handle with a read in flight */
		Vfs_handle *_sync_ptr = nullptr; /* handle with a sync in flight */

		unsigned _generation = 0;

		Read_ready_response_handler *_response_ptr = nullptr;

		void _close(Vfs_handle *&ptr)
		{
			if (!ptr) return;

			if (ptr == _sub_ptr)
				fenced_write.drain(_stack.io(), *ptr);

			ptr->handler(nullptr);
			ptr->close();
			if (_sync_ptr == ptr) _sync_ptr = nullptr;
			ptr = nullptr;
		}

		void _close_sub()
		{
			/* keep it until the read is completed */
			if (_sub_ptr == _read_ptr) _sub_ptr = nullptr;
			else                       _close(_sub_ptr);
		}

	public:

		using List<File_handle>::Element::next;

		Open_file &file;

		Fenced_write fenced_write { };

		/* reported by the next sync, for who cannot be told any other way */
		bool failed = false;

		File_handle(Fs &fs, Allocator &alloc, unsigned mode, Open_file &file, Stack &stack)
		:
			Handle(fs, fs, alloc, mode), _stack(stack),
			_generation(file.generation), file(file)
		{
			file.handles.insert(this);
		}

		File_handle(File_handle const &) = delete;
		File_handle &operator = (File_handle const &) = delete;

		~File_handle()
		{
			file.handles.remove(this);

			if (_read_ptr && _read_ptr != _sub_ptr)
				_close(_read_ptr);
			_close(_sub_ptr);
		}

		bool writeable() const {
			return (status_flags() & Directory_service::OPEN_MODE_ACCMODE)
			        != Directory_service::OPEN_MODE_RDONLY; }

		/**
		 * Adopt handle that was opened already
		 */
		void adopt(Vfs_handle &sub) { _sub_ptr = &sub; }

		void handler(Read_ready_response_handler *ptr) override
		{
			Vfs_handle::handler(ptr);
			_response_ptr = ptr;
			if (_sub_ptr)  _sub_ptr ->handler(ptr);
			if (_read_ptr) _read_ptr->handler(ptr);
		}

		/**
		 * Open file at the layer that has it now
		 */
		Result open()
		{
			if (_sub_ptr && _generation == file.generation)
				return Result::OK;

			Layer &layer = _stack.layer(file.layer);

			/* reading is needed by 'Fenced_write' even if the user only writes */
			unsigned const mode = file.transactional()
			                    ? (status_flags() & Directory_service::OPEN_MODE_ACCMODE)
			                    : file.in_upper() && writeable()
			                    ? (unsigned)Directory_service::OPEN_MODE_RDWR
			                    : (unsigned)Directory_service::OPEN_MODE_RDONLY;

			Vfs_handle *ptr = nullptr;

			Result result = Result::NO_PERM;
			try {
				result = file.symlink
				       ? Vfs_cow::result(layer.fs.openlink(file.layer_path().string(), false, &ptr, alloc()))
				       : Vfs_cow::result(layer.fs.open(file.layer_path().string(), mode, &ptr, alloc()));
			}
			catch (Out_of_ram)  { result = Result::OUT_OF_RAM; }
			catch (Out_of_caps) { result = Result::OUT_OF_CAPS; }
			catch (...)         { }

			if (result != Result::OK)
				return result;

			_close_sub();
			fenced_write.reset();
			_sub_ptr    = ptr;
			_generation = file.generation;
			_sub_ptr->handler(_response_ptr);
			return Result::OK;
		}

		bool with_sub(auto const &fn)
		{
			if (open() != Result::OK || !_sub_ptr)
				return false;

			_sub_ptr->seek(seek());
			fn(*_sub_ptr);
			return true;
		}

		bool with_const_sub(auto const &fn) const
		{
			if (_sub_ptr) fn(*_sub_ptr);
			return _sub_ptr != nullptr;
		}

		Io::Write_result write(Const_byte_range_ptr const &src, size_t &out)
		{
			Io::Write_result result = Io::WRITE_ERR_IO;

			with_sub([&] (Vfs_handle &sub) {

				if (file.transactional()) {
					result = guarded(Io::WRITE_ERR_IO, [&] { return sub.fs().write(&sub, src, out); });
					return;
				}

				result = fenced_write.write(sub, seek(), src, out,
					[&] { return _read_ptr || _sync_ptr; },
					[&] { return !_content_lost(); });
			});
			return result;
		}

		bool queue_read(size_t count) override
		{
			if (_read_ptr || (_sub_ptr && !fenced_write.settled(*_sub_ptr)))
				return false;

			bool queued = true;
			with_sub([&] (Vfs_handle &sub) {
				queued = sub.fs().queue_read(&sub, count);
				if (queued) _read_ptr = &sub;
			});
			return queued;
		}

		Read_result complete_read(Byte_range_ptr const &dst, size_t &out) override
		{
			out = 0;

			if (!_read_ptr)
				return File_io_service::READ_ERR_IO;

			Read_result const result = guarded(File_io_service::READ_ERR_IO, [&] {
				return _read_ptr->fs().complete_read(_read_ptr, dst, out); });

			if (result != File_io_service::READ_QUEUED
			 && result != File_io_service::READ_ERR_WOULD_BLOCK) {

				if (_read_ptr != _sub_ptr) _close(_read_ptr);
				else                       _read_ptr = nullptr;
			}
			return result;
		}

		bool queue_sync() override
		{
			/* there is nothing to sync for a file that was never written */
			if (!file.in_upper())
				return true;

			if (_sub_ptr && !fenced_write.settled(*_sub_ptr))
				return false;

			bool queued = true;
			with_sub([&] (Vfs_handle &sub) {
				queued = sub.fs().queue_sync(&sub);
				if (queued) _sync_ptr = &sub;
			});
			return queued;
		}

		Sync_result complete_sync() override
		{
			Sync_result result = File_io_service::SYNC_OK;

			if (file.in_upper()) {

				/* the file was moved after the sync was queued */
				if (!_sync_ptr && !queue_sync())
					return File_io_service::SYNC_QUEUED;

				result = _sync_ptr ? _sync_ptr->fs().complete_sync(_sync_ptr)
				                   : File_io_service::SYNC_ERR_INVALID;

				if (result == File_io_service::SYNC_QUEUED)
					return result;

				_sync_ptr = nullptr;

				if (result == File_io_service::SYNC_OK)
					fenced_write.synced();

				if (_content_lost())
					result = File_io_service::SYNC_ERR_INVALID;

				file.written = 0;
			}

			if (failed)
				result = File_io_service::SYNC_ERR_INVALID;

			failed = false;
			return result;
		}

	private:

		/**
		 * Return true if the file ends before the end of what was written
		 *
		 * A File_system session acknowledges a write before it happens, and
		 * does not tell when it fails later.
		 */
		bool _content_lost() const
		{
			file_size const expected = file.written;

			if (!expected || file.symlink || file.transactional())
				return false;

			Stat stat { };
			return !_stack.layer(Stack::UPPER).stat(file.path, stat)
			    || stat.size < expected;
		}
};


bool Vfs_cow::Open_file::writeable() const
{
	for (File_handle const *ptr = handles.first(); ptr; ptr = ptr->next())
		if (ptr->writeable())
			return true;
	return false;
}

#endif /* _COW__HANDLE_H_ */
