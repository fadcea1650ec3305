/*
 * \brief  Copy of a file or symlink to the writable layer
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

#ifndef _COW__COPY_UP_H_
#define _COW__COPY_UP_H_

/* local includes */
#include "fenced_write.h"
#include "upper.h"

namespace Vfs_cow {

	class Copy_up;

	static inline Result copy_up_symlink(Genode::Vfs::Env::Io &, Allocator &, Upper &,
	                                     Const_byte_range_ptr const &, Path const &);
}


/**
 * The file is copied to the work directory in pieces. It appears at its place
 * by a rename once all of it was written and synced.
 */
class Vfs_cow::Copy_up
{
	public:

		enum class Progress {
			BLOCKED,  /* I/O of a layer has to be waited for */
			YIELD,    /* enough for one go, step again */
			DONE,
			FAILED
		};

	private:

		/*
		 * Size of a piece, and how many of them make up one step
		 *
		 * The buffer of a File_system session has 128 KiB by default. With two
		 * pieces in flight, there is room left for the request of 'Fenced_write'.
		 */
		static constexpr size_t   BUFFER_SIZE     = 48*1024;
		static constexpr unsigned PIECES_PER_STEP = 4;

		using Write_result = File_io_service::Write_result;
		using Read_result  = File_io_service::Read_result;
		using Sync_result  = File_io_service::Sync_result;

		enum class State { READ, READING, WRITE, STAMP, SYNC, SYNCING, MOVE, DONE, FAILED };

		Genode::Vfs::Env::Io &_io;

		Allocator &_alloc;
		Upper     &_upper;
		Path const _from;
		Path const _to;

		Stat const _stat;   /* of the original */

		file_size const _size;

		State  _state = State::READ;
		Result _error = Result::OK;

		Path _work { };

		Vfs_handle *_src_ptr = nullptr;
		Vfs_handle *_dst_ptr = nullptr;

		char     *_buf    = nullptr;
		size_t    _filled = 0;  /* bytes in the buffer */
		size_t    _taken  = 0;  /* bytes of the buffer that were written */
		file_size _pos    = 0;  /* position of the buffer in the file */

		unsigned _stamp_attempts = 0;

		Fenced_write _write { };

		/*
		 * Noncopyable
		 */
		Copy_up(Copy_up const &);
		Copy_up &operator = (Copy_up const &);

		/**
		 * Wait for the answers to all requests, which would get lost otherwise
		 */
		void _drain()
		{
			if (_src_ptr && _state == State::READING) {
				size_t count = 0;
				while (_src_ptr->fs().complete_read(_src_ptr,
				       Byte_range_ptr(_buf, _piece()), count) == Read_result::READ_QUEUED)
					_io.commit_and_wait();
			}

			if (_dst_ptr && _state == State::SYNCING)
				while (_dst_ptr->fs().complete_sync(_dst_ptr) == Sync_result::SYNC_QUEUED)
					_io.commit_and_wait();

			if (_dst_ptr)
				_write.drain(_io, *_dst_ptr);
		}

		void _close()
		{
			if (_src_ptr) _src_ptr->close();
			if (_dst_ptr) _dst_ptr->close();
			if (_buf)     _alloc.free(_buf, BUFFER_SIZE);
			_src_ptr = _dst_ptr = nullptr;
			_buf     = nullptr;
		}

		Progress _fail(Result error)
		{
			bool const opened = (_dst_ptr != nullptr);
			_close();
			if (opened)
				_upper.unlink(_work);
			_error = error;
			_state = State::FAILED;
			return Progress::FAILED;
		}

		bool _open(Layer const &lower)
		{
			_error = _upper.make_parents(_to);
			if (_error != Result::OK) return false;

			_error = _upper.work_path(_work);
			if (_error != Result::OK) return false;

			_error = Vfs_cow::result(guarded(Directory_service::OPEN_ERR_NO_PERM, [&] {
				return lower.fs.open(_from.string(), Directory_service::OPEN_MODE_RDONLY,
				                     &_src_ptr, _alloc); }));
			if (_error != Result::OK) return false;

			/* reading is needed by 'Fenced_write' only */
			_error = Vfs_cow::result(_upper.open(_work, Directory_service::OPEN_MODE_RDWR |
			                                          Directory_service::OPEN_MODE_CREATE,
			                                   _dst_ptr, _alloc));
			if (_error != Result::OK) return false;

			return _alloc.try_alloc(BUFFER_SIZE).convert<bool>(
				[&] (Memory::Allocation &a) {
					a.deallocate = false;
					_buf = (char *)a.ptr;
					return true;
				},
				[&] (Alloc_error) { _error = Result::OUT_OF_RAM; return false; });
		}

		bool _far_off(Stat const &copy) const
		{
			uint64_t const a = copy.modification_time.ms_since_1970,
			               b = _stat.modification_time.ms_since_1970;
			return (a > b ? a - b : b - a) > 2000;
		}

		bool _all_arrived() const
		{
			Stat copy { };
			return _upper.stat(_work, copy) && copy.size >= _pos + _taken;
		}

		Progress _move()
		{
			Stat copy { };

			/*
			 * Writing may fail without notice, e.g., a File_system session
			 * does not tell.
			 */
			if (!_upper.stat(_work, copy) || copy.size != _size)
				return _fail(Result::NO_SPACE);

			/*
			 * A wrong time would be worse than the current one, which a file
			 * gets when truncated.
			 */
			if (_stamped() && _far_off(copy)) {
				_upper.keeps_mtime = false;
				(void)_dst_ptr->fs().ftruncate(_dst_ptr, _size);
			}

			_dst_ptr->close();
			_dst_ptr = nullptr;

			if (_upper.move(_work, _to) != Directory_service::RENAME_OK) {
				_upper.unlink(_work);
				return _fail(Result::NO_PERM);
			}

			_close();
			_state = State::DONE;
			return Progress::DONE;
		}

		bool _stamped() const {
			return _upper.keeps_mtime && _stat.modification_time.ms_since_1970; }

	public:

		/**
		 * \param from  path in the lower layer
		 * \param to    path in the upper layer
		 * \param size  number of bytes to copy, at most the size of the original
		 */
		Copy_up(Genode::Vfs::Env::Io &io, Allocator &alloc, Upper &upper, Layer const &lower,
		        Path const &from, Path const &to, Stat const &stat, file_size size)
		:
			_io(io), _alloc(alloc), _upper(upper), _from(from), _to(to), _stat(stat),
			_size(min(size, stat.size))
		{
			if (!_open(lower))
				_fail(_error);
			else if (_size == 0)
				_state = State::STAMP;
		}

		~Copy_up()
		{
			if (_state == State::DONE || _state == State::FAILED)
				return;

			_drain();
			_fail(Result::IO_ERROR);
		}

		Result error() const { return _error; }

		Progress step()
		{
			unsigned pieces = 0;

			for (;;) switch (_state) {

			case State::READ:

				if (_pos == _size) {
					_state = State::STAMP;
					continue;
				}
				if (pieces++ == PIECES_PER_STEP)
					return Progress::YIELD;

				_src_ptr->seek(_pos);
				if (!_src_ptr->fs().queue_read(_src_ptr, _piece()))
					return Progress::BLOCKED;

				_state = State::READING;
				continue;

			case State::READING:
				{
					size_t count = 0;
					Read_result const result = _src_ptr->fs().complete_read(_src_ptr,
						Byte_range_ptr(_buf, _piece()), count);

					if (result == Read_result::READ_QUEUED
					 || result == Read_result::READ_ERR_WOULD_BLOCK)
						return Progress::BLOCKED;

					if (result != Read_result::READ_OK || count == 0)
						return _fail(Result::IO_ERROR);

					_filled = count;
					_taken  = 0;
					_state  = State::WRITE;
					continue;
				}

			case State::WRITE:
				{
					size_t count = 0;

					Write_result const result = _write.write(*_dst_ptr, _pos + _taken,
						Const_byte_range_ptr(_buf + _taken, _filled - _taken), count,
						[&] { return false; }, [&] { return _all_arrived(); });

					if (result == Write_result::WRITE_ERR_WOULD_BLOCK)
						return Progress::BLOCKED;

					/* that there is no space is the most likely reason */
					if (result != Write_result::WRITE_OK)
						return _fail(Result::NO_SPACE);

					if (count == 0)
						return _fail(Result::NO_SPACE);

					_taken += count;
					if (_taken == _filled) {
						_pos  += _filled;
						_state = State::READ;
					}
					continue;
				}

			case State::STAMP:

				/* the refusal is temporary if a packet stream is congested */
				if (_stamped() && _stamp_attempts++ < 16
				 && !_dst_ptr->fs().update_modification_timestamp(
				        _dst_ptr, _stat.modification_time))
					return Progress::BLOCKED;

				_state = State::SYNC;
				continue;

			case State::SYNC:

				if (!_dst_ptr->fs().queue_sync(_dst_ptr))
					return Progress::BLOCKED;

				_state = State::SYNCING;
				continue;

			case State::SYNCING:

				switch (_dst_ptr->fs().complete_sync(_dst_ptr)) {
				case Sync_result::SYNC_QUEUED:      return Progress::BLOCKED;
				case Sync_result::SYNC_ERR_INVALID: return _fail(Result::IO_ERROR);
				case Sync_result::SYNC_OK:          break;
				}
				_write.synced();
				_state = State::MOVE;
				continue;

			case State::MOVE:   return _move();
			case State::DONE:   return Progress::DONE;
			case State::FAILED: return Progress::FAILED;
			}
		}

	private:

		size_t _piece() const { return (size_t)min((file_size)BUFFER_SIZE, _size - _pos); }
};


/**
 * Make symlink with the given target at 'path', replacing the one that is
 * there
 */
Vfs_cow::Result Vfs_cow::copy_up_symlink(Genode::Vfs::Env::Io       &io,
                                         Allocator                  &alloc,
                                         Upper                      &upper,
                                         Const_byte_range_ptr const &target,
                                         Path                 const &path)
{
	Path work { };

	Result result = upper.make_parents(path);
	if (result != Result::OK) return result;

	result = upper.work_path(work);
	if (result != Result::OK) return result;

	Vfs_handle *handle = nullptr;
	result = Vfs_cow::result(upper.openlink(work, true, handle, alloc));
	if (result != Result::OK) return result;

	{
		Vfs_handle::Guard guard { handle };

		size_t count = 0;
		File_io_service::Write_result written;
		do {
			written = guarded(File_io_service::WRITE_ERR_IO, [&] {
				return handle->fs().write(handle, target, count); });
			if (written == File_io_service::WRITE_ERR_WOULD_BLOCK)
				io.commit_and_wait();
		} while (written == File_io_service::WRITE_ERR_WOULD_BLOCK);

		if (written != File_io_service::WRITE_OK || count < target.num_bytes)
			result = Result::NO_SPACE;

		while (!handle->fs().queue_sync(handle))
			io.commit_and_wait();

		File_io_service::Sync_result synced;
		while ((synced = handle->fs().complete_sync(handle)) == File_io_service::SYNC_QUEUED)
			io.commit_and_wait();

		if (synced != File_io_service::SYNC_OK)
			result = Result::IO_ERROR;
	}

	if (result == Result::OK && upper.move(work, path) != Directory_service::RENAME_OK)
		result = Result::NO_PERM;

	if (result != Result::OK)
		upper.unlink(work);

	return result;
}

#endif /* _COW__COPY_UP_H_ */
