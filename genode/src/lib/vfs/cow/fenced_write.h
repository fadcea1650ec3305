/*
 * \brief  Write that does not wait for a response that never comes
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

#ifndef _COW__FENCED_WRITE_H_
#define _COW__FENCED_WRITE_H_

/* local includes */
#include "layer.h"

namespace Vfs_cow { class Fenced_write; }


/**
 * A write by a File_system session would block if the buffer of the session is
 * occupied by earlier ones. Servers exist that leave a write unanswered that
 * they cannot perform, e.g., 'lx_fs' does if the disk is full. The buffer is
 * never freed then, and waiting for room would never end.
 *
 * In contrast, a request that follows such a write is answered. So issue one
 * whenever a write would block, and look for what became of the earlier writes
 * once the answer is there. What the unanswered ones occupy is lost, so make
 * do with less.
 */
class Vfs_cow::Fenced_write : Noncopyable
{
	public:

		using Write_result = File_io_service::Write_result;
		using Read_result  = File_io_service::Read_result;
		using Sync_result  = File_io_service::Sync_result;

	private:

		enum class Fence { NONE, READ, SYNC };

		Fence    _fence     = Fence::NONE;
		bool     _in_flight = false; /* written since the last answer */
		unsigned _fruitless = 0;     /* attempts since the last success */
		size_t   _max       = ~0UL;  /* number of bytes to write at once */

		static constexpr unsigned PATIENCE  = 2;
		static constexpr size_t   MIN_BYTES = 1024;

		void _start(Vfs_handle &handle)
		{
			handle.seek(0);
			if (handle.fs().queue_read(&handle, 1))   _fence = Fence::READ;
			else if (handle.fs().queue_sync(&handle)) _fence = Fence::SYNC;
		}

		bool _answered(Vfs_handle &handle)
		{
			char   byte  = 0;
			size_t count = 0;

			switch (_fence) {

			case Fence::READ:

				if (handle.fs().complete_read(&handle, Byte_range_ptr(&byte, 1), count)
				    == Read_result::READ_QUEUED)
					return false;
				break;

			case Fence::SYNC:

				if (handle.fs().complete_sync(&handle) == Sync_result::SYNC_QUEUED)
					return false;
				break;

			case Fence::NONE: break;
			}
			return true;
		}

	public:

		/**
		 * Forget about the handle used so far
		 */
		void reset() { _fence = Fence::NONE; _in_flight = false; }

		/**
		 * Note that a sync has been answered
		 */
		void synced() { _in_flight = false; }

		/**
		 * Wait until all writes were answered that ever will be
		 *
		 * To be called before closing the handle: what arrives for a closed
		 * handle stays in the buffer of the session.
		 */
		void drain(Genode::Vfs::Env::Io &io, Vfs_handle &handle)
		{
			if (!_in_flight && _fence == Fence::NONE)
				return;

			for (unsigned i = 0; _fence == Fence::NONE && i < 8; i++) {
				_start(handle);
				if (_fence == Fence::NONE)
					io.commit_and_wait();
			}

			while (!_answered(handle))
				io.commit_and_wait();

			reset();
		}

		/**
		 * Return true if the handle is free for another request
		 */
		bool settled(Vfs_handle &handle)
		{
			if (_fence != Fence::NONE && _answered(handle))
				reset();

			return _fence == Fence::NONE;
		}

		/**
		 * Write to 'handle', which must be open for reading as well
		 *
		 * \param busy_fn     returns true while the handle must not be used for
		 *                    anything else than writing
		 * \param arrived_fn  returns true if the file has got what was written
		 *                    so far
		 */
		Write_result write(Vfs_handle &handle, file_size at,
		                   Const_byte_range_ptr const &src, size_t &out,
		                   auto const &busy_fn, auto const &arrived_fn)
		{
			out = 0;

			if (_fence != Fence::NONE) {

				if (!_answered(handle))
					return File_io_service::WRITE_ERR_WOULD_BLOCK;

				reset();

				if (!arrived_fn())
					return File_io_service::WRITE_ERR_IO;
			}

			for (;;) {

				size_t const num_bytes = min(src.num_bytes, _max);

				handle.seek(at);

				Write_result const result = guarded(File_io_service::WRITE_ERR_IO, [&] {
					return handle.fs().write(&handle,
						Const_byte_range_ptr(src.start, num_bytes), out); });

				if (result != File_io_service::WRITE_ERR_WOULD_BLOCK) {
					_fruitless = 0;
					_in_flight = true;
					return result;
				}

				/* the answer to the other request has an unblocking effect too */
				if (busy_fn())
					return result;

				if (_fruitless < PATIENCE) {
					_fruitless++;
					_start(handle);
					return result;
				}

				_max = num_bytes/2;
				if (_max < MIN_BYTES)
					return File_io_service::WRITE_ERR_IO;
			}
		}
};

#endif /* _COW__FENCED_WRITE_H_ */
