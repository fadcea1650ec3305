/*
 * \brief  Blocking access to a VFS, which keeps the results of each operation
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

#ifndef _TREE_H_
#define _TREE_H_

/* Genode includes */
#include <vfs/simple_env.h>

namespace Test {

	using namespace Genode;

	using Ds      = Vfs::Directory_service;
	using Io      = Vfs::File_io_service;
	using Text    = String<1024>;
	using Names   = String<1024>;

	class Tree;
	struct Opened;
}


struct Test::Opened : Noncopyable
{
	Vfs::Env::Io    &_io;
	Vfs::Vfs_handle *ptr = nullptr;

	Opened(Vfs::Env::Io &io) : _io(io) { }

	Opened(Opened const &) = delete;
	Opened &operator = (Opened const &) = delete;

	~Opened() { close(); }

	void close()
	{
		if (ptr) ptr->close();
		ptr = nullptr;
	}

	Io::Read_result read(Vfs::file_size at, Byte_range_ptr const &dst, size_t &count)
	{
		ptr->seek(at);
		while (!ptr->fs().queue_read(ptr, dst.num_bytes))
			_io.commit_and_wait();

		for (;;) {
			Io::Read_result const r = ptr->fs().complete_read(ptr, dst, count);
			if (r != Io::READ_QUEUED && r != Io::READ_ERR_WOULD_BLOCK)
				return r;
			_io.commit_and_wait();
		}
	}

	/* counts how often a write had to be repeated */
	unsigned blocked = 0;

	Io::Write_result write(Vfs::file_size at, Const_byte_range_ptr const &src)
	{
		size_t done = 0;
		while (done < src.num_bytes) {
			size_t count = 0;
			ptr->seek(at + done);
			Io::Write_result const r = ptr->fs().write(ptr,
				Const_byte_range_ptr(src.start + done, src.num_bytes - done), count);

			if (r == Io::WRITE_ERR_WOULD_BLOCK) {
				blocked++;
				_io.commit_and_wait();
				continue;
			}
			if (r != Io::WRITE_OK) return r;
			if (!count)            return Io::WRITE_ERR_IO;
			done += count;
		}
		return Io::WRITE_OK;
	}

	Io::Write_result write(Vfs::file_size at, char const *s) {
		return write(at, Const_byte_range_ptr(s, strlen(s))); }

	Io::Sync_result sync()
	{
		while (!ptr->fs().queue_sync(ptr))
			_io.commit_and_wait();

		for (;;) {
			Io::Sync_result const r = ptr->fs().complete_sync(ptr);
			if (r != Io::SYNC_QUEUED)
				return r;
			_io.commit_and_wait();
		}
	}

	Io::Ftruncate_result truncate(Vfs::file_size len) { return ptr->fs().ftruncate(ptr, len); }

	Text text()
	{
		char buf[Text::capacity()] { };
		size_t pos = 0;
		while (pos < sizeof(buf) - 1) {
			size_t count = 0;
			Io::Read_result const r = read(pos, Byte_range_ptr(buf + pos, sizeof(buf) - 1 - pos), count);
			if (r != Io::READ_OK) return Text("<read error ", (int)r, ">");
			if (!count) break;
			pos += count;
		}
		return Text(Cstring(buf));
	}
};


class Test::Tree : Noncopyable
{
	private:

		Vfs::Env  &_env;
		Allocator &_alloc;

		using Path = String<Vfs::MAX_PATH_LEN>;

		Path const _base;

	public:

		Tree(Vfs::Env &env, Allocator &alloc, auto const &base)
		: _env(env), _alloc(alloc), _base(base) { }

		Path path(auto const &p) const { return Path(_base, p); }

		Vfs::Env::Io     &io() { return _env.io(); }
		Vfs::File_system &fs() { return _env.root_dir(); }

		Ds::Open_result open(auto const &p, unsigned mode, Opened &out) {
			return fs().open(path(p).string(), mode, &out.ptr, _alloc); }

		Text read(auto const &p)
		{
			Opened file { io() };
			Ds::Open_result const r = open(p, Ds::OPEN_MODE_RDONLY, file);
			return r == Ds::OPEN_OK ? file.text() : Text("<open error ", (int)r, ">");
		}

		/**
		 * Open for writing, with or without creation, write, sync, close
		 */
		bool write(auto const &p, char const *s, Vfs::file_size at = 0, bool create = false)
		{
			Opened file { io() };
			return open(p, Ds::OPEN_MODE_RDWR | (create ? Ds::OPEN_MODE_CREATE : 0), file) == Ds::OPEN_OK
			    && file.write(at, s) == Io::WRITE_OK
			    && file.sync() == Io::SYNC_OK;
		}

		bool create(auto const &p, char const *s) { return write(p, s, 0, true); }

		Ds::Open_result create_result(auto const &p)
		{
			Opened file { io() };
			return open(p, Ds::OPEN_MODE_RDWR | Ds::OPEN_MODE_CREATE, file);
		}

		Ds::Opendir_result mkdir(auto const &p)
		{
			Opened dir { io() };
			return fs().opendir(path(p).string(), true, &dir.ptr, _alloc);
		}

		Ds::Unlink_result unlink(auto const &p) { return fs().unlink(path(p).string()); }

		Ds::Rename_result rename(auto const &a, auto const &b) {
			return fs().rename(path(a).string(), path(b).string()); }

		bool stat(auto const &p, Ds::Stat &out) {
			return fs().stat(path(p).string(), out) == Ds::STAT_OK; }

		bool exists(auto const &p) { return fs().leaf_path(path(p).string()) != nullptr; }

		Vfs::file_size size(auto const &p)
		{
			Ds::Stat s { };
			return stat(p, s) ? s.size : ~0ULL;
		}

		Ds::Openlink_result openlink(auto const &p, bool create, Opened &out) {
			return fs().openlink(path(p).string(), create, &out.ptr, _alloc); }

		Text readlink(auto const &p)
		{
			Opened link { io() };
			Ds::Openlink_result const r = openlink(p, false, link);
			if (r != Ds::OPENLINK_OK) return Text("<openlink error ", (int)r, ">");

			char buf[Vfs::MAX_PATH_LEN] { };
			size_t count = 0;
			if (link.read(0, Byte_range_ptr(buf, sizeof(buf) - 1), count) != Io::READ_OK)
				return Text("<read error>");
			return Text(Cstring(buf));
		}

		bool symlink(auto const &p, char const *target, bool create = true)
		{
			Opened link { io() };
			return openlink(p, create, link) == Ds::OPENLINK_OK
			    && link.write(0, Const_byte_range_ptr(target, strlen(target) + 1)) == Io::WRITE_OK
			    && link.sync() == Io::SYNC_OK;
		}

		/**
		 * Names of a directory in alphabetical order
		 */
		Names names(auto const &p)
		{
			using Name = String<128>;
			static constexpr unsigned MAX = 64;
			Name names[MAX];
			unsigned num = 0;

			Opened dir { io() };
			if (fs().opendir(path(p).string(), false, &dir.ptr, _alloc) != Ds::OPENDIR_OK)
				return Names("<opendir error>");

			for (unsigned i = 0; num < MAX; i++) {
				Ds::Dirent dirent { };
				size_t count = 0;
				if (dir.read(i*sizeof(dirent), Byte_range_ptr((char *)&dirent, sizeof(dirent)), count)
				 != Io::READ_OK)
					return Names("<read error>");
				if (count < sizeof(dirent) || dirent.type == Ds::Dirent_type::END)
					break;

				if (strcmp(dirent.name.buf, ".")  == 0
				 || strcmp(dirent.name.buf, "..") == 0)
					continue;

				unsigned at = num++;
				Name const name(Cstring(dirent.name.buf));
				for (; at && strcmp(names[at - 1].string(), name.string()) > 0; at--)
					names[at] = names[at - 1];
				names[at] = name;
			}

			Names result { };
			for (unsigned i = 0; i < num; i++)
				result = Names(result, i ? " " : "", names[i]);
			return result;
		}
};

#endif /* _TREE_H_ */
