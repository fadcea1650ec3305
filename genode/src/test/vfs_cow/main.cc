/*
 * \brief  Test of the copy-on-write VFS plugin
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

/*
 * The test exercises the tree at /cow, which is either a 'cow' file system of
 * its own VFS or one of a VFS server. The lower layers are the archives
 * described in the README. If the upper layer is accessible at /upper, its
 * content is looked at as well.
 */

/* Genode includes */
#include <base/attached_dataspace.h>
#include <base/attached_rom_dataspace.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>

/* local includes */
#include "random_ops.h"
#include "tree.h"

namespace Test { struct Main; }


struct Test::Main
{
	Env &_env;

	Heap _heap { _env.ram(), _env.rm() };

	Attached_rom_dataspace _config { _env, "config" };

	using Attr = String<32>;

	Attr const _phase = _config.node().attribute_value("phase", Attr("first"));

	/* features of the set-up */
	bool const _local    = _config.node().attribute_value("local",    true);
	bool const _symlinks = _config.node().attribute_value("symlinks", true);
	bool const _mtime    = _config.node().attribute_value("mtime",    true);
	bool const _raw      = _config.node().attribute_value("raw",      false);

	Vfs::Simple_env _vfs = _config.node().with_sub_node("vfs",
		[&] (Node const &config) -> Vfs::Simple_env { return { _env, _heap, config }; },
		[&] ()                   -> Vfs::Simple_env { return { _env, _heap, Node() }; });

	Attr const _base = _config.node().attribute_value("base", Attr("/cow"));

	Tree _tree  { _vfs, _heap, _base };
	Tree _upper { _vfs, _heap, "/upper" };

	unsigned _checks = 0, _failed = 0;

	void check(char const *what, bool ok)
	{
		_checks++;
		if (ok) { log("ok: ", what); return; }
		_failed++;
		error("FAILED: ", what);
	}

	void check(char const *what, auto const &value, auto const &expected)
	{
		bool const ok = (value == expected);
		check(what, ok);
		if (!ok) log("    got '", value, "' instead of '", expected, "'");
	}

	void check(char const *what, Text const &value, char const *expected) {
		check(what, value, Text(expected)); }

	/* 'big' consists of lines of 16 bytes, each with its number */
	static constexpr Vfs::file_size BIG_SIZE = 640*1024;

	static String<17> _line(Vfs::file_size n)
	{
		String<17> digits { n };
		String<17> result { };
		for (size_t i = digits.length(); i < 16; i++) result = String<17>(result, "0");
		return String<17>(result, digits, "\n");
	}

	/**
	 * Return position of the first line that differs, or the size
	 */
	Vfs::file_size _verify_big(char const *path, Vfs::file_size from, Vfs::file_size to)
	{
		static char buf[64*1024];
		Opened file { _tree.io() };
		if (_tree.open(path, Ds::OPEN_MODE_RDONLY, file) != Ds::OPEN_OK)
			return ~0ULL;

		Vfs::file_size pos = from;
		while (pos < to) {
			size_t count = 0, filled = 0;
			size_t const want = (size_t)min(to - pos, (Vfs::file_size)sizeof(buf));
			while (filled < want) {
				if (file.read(pos + filled, Byte_range_ptr(buf + filled, want - filled), count)
				    != Io::READ_OK || !count)
					return pos;
				filled += count;
			}
			for (size_t i = 0; i < want; i += 16)
				if (memcmp(buf + i, _line((pos + i)/16).string(), 16) != 0)
					return pos + i;
			pos += want;
		}
		return pos;
	}


	/***********
	 ** First **
	 ***********/

	void _read()
	{
		check("root is merged without duplicates or markers", _tree.names(""),
		      "big dir dir2 etc gone late link many open rendir script");
		check("directory of two layers is merged", _tree.names("/etc"),
		      "extra hostname passwd");
		check("upper one of two lower layers wins", _tree.read("/etc/hostname"), "mid\n");
		check("file of the lowest layer is visible", _tree.read("/etc/passwd"), "root\n");
		check("whiteout of a lower layer hides", !_tree.exists("/hidden"));
		check("opaque directory of a lower layer hides", _tree.names("/dir2"), "new");
		check("symlink is read", _tree.readlink("/link"), "etc/hostname");
		check("big file is read", _verify_big("/big", 0, BIG_SIZE), BIG_SIZE);

		Ds::Stat s { };
		check("script keeps its executable bit",
		      _tree.stat("/script", s) && s.rwx.executable && s.rwx.writeable);
		check("modification time is that of the lower file",
		      _tree.stat("/etc/passwd", s) ? s.modification_time.ms_since_1970 : 0,
		      1000000000000ULL);
		check("no file at a path through a file", !_tree.exists("/etc/passwd/x"));
		check("opening what is not there", (int)_tree.write("/etc/none", "x"), 0);
	}

	void _copy_up()
	{
		if (_raw) check("nothing is copied at start", _upper.names(""), "");

		Opened reader { _tree.io() };
		check("open for reading",
		      _tree.open("/etc/passwd", Ds::OPEN_MODE_RDONLY, reader) == Ds::OPEN_OK);
		{
			Opened writer { _tree.io() };
			check("open for writing",
			      _tree.open("/etc/passwd", Ds::OPEN_MODE_RDWR, writer) == Ds::OPEN_OK);
			if (_raw) check("opening copies nothing", !_upper.exists("/etc/passwd"));
			check("first write", writer.write(2, "XX") == Io::WRITE_OK);
			check("sync", writer.sync() == Io::SYNC_OK);
			check("writer sees what it wrote", writer.text(), "roXX\n");
		}
		check("handle opened before the copy sees the new content", reader.text(), "roXX\n");
		check("new handle sees the new content", _tree.read("/etc/passwd"), "roXX\n");
		check("listing has no duplicate after the copy", _tree.names("/etc"),
		      "extra hostname passwd");
		if (_raw) check("file and its directory were copied", _upper.names("/etc"), "passwd");

		/* begin a write and leave it at that */
		auto attempt = [&] (Opened &file) {
			String<17> const line = _line(0);
			size_t count = 0;
			file.ptr->seek(0);
			Io::Write_result const result =
				file.ptr->fs().write(file.ptr, Const_byte_range_ptr(line.string(), 16), count);
			_tree.io().commit();
			return result;
		};

		/* a session would have no room left if each attempt took some of it along */
		for (unsigned i = 0; _local && i < 10; i++) {
			Opened file { _tree.io() };
			if (_tree.open("/big", Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK)
				(void)attempt(file);
		}
		check("abandoned copies leave the file as it is", _verify_big("/big", 0, BIG_SIZE), BIG_SIZE);
		check("and its size", _tree.size("/big"), BIG_SIZE);
		if (_raw) check("and nothing else", _upper.names("/.wh..wh.work"), "");

		if (_local) {
			Opened file { _tree.io() };
			check("open big file", _tree.open("/big", Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK);
			check("it is copied in pieces", attempt(file) == Io::WRITE_ERR_WOULD_BLOCK);
			check("rename while it is copied", _tree.rename("/big", "/dir/big") == Ds::RENAME_OK);
			check("it goes on", file.write(0, _line(0).string()) == Io::WRITE_OK);
			check("it is complete", _verify_big("/dir/big", 0, BIG_SIZE), BIG_SIZE);
			check("rename it back", _tree.rename("/dir/big", "/big") == Ds::RENAME_OK);
		}

		Opened big { _tree.io() };
		check("open big file", _tree.open("/big", Ds::OPEN_MODE_RDWR, big) == Ds::OPEN_OK);
		check("write to the end of the big file",
		      big.write(BIG_SIZE, _line(BIG_SIZE/16).string()) == Io::WRITE_OK);
		check("sync big file", big.sync() == Io::SYNC_OK);
		check("big file is complete", _verify_big("/big", 0, BIG_SIZE + 16), BIG_SIZE + 16);
		check("size of the big file", _tree.size("/big"), BIG_SIZE + 16);

		check("append to a file of the middle layer", _tree.write("/etc/hostname", "more\n", 4));
		check("content after appending", _tree.read("/etc/hostname"), "mid\nmore\n");
	}

	void _truncate()
	{
		auto truncate = [&] (char const *path, Vfs::file_size len) {
			Opened file { _tree.io() };
			return _tree.open(path, Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK
			    && file.truncate(len) == Io::FTRUNCATE_OK
			    && file.sync() == Io::SYNC_OK; };

		check("truncate lower file", truncate("/dir/a", 2));
		check("content after truncating", _tree.read("/dir/a"), "aa");
		check("truncate lower file to nothing", truncate("/dir/b", 0));
		check("size after truncating to nothing", _tree.size("/dir/b"), 0ULL);
		check("extend lower file", truncate("/dir/sub/c", 100));
		check("size after extending", _tree.size("/dir/sub/c"), 100ULL);
		check("content is kept when extending", _tree.read("/dir/sub/c"), "ccc\n");
		Opened file { _tree.io() };
		check("read-only handle cannot truncate",
		      _tree.open("/script", Ds::OPEN_MODE_RDONLY, file) == Ds::OPEN_OK
		      && file.truncate(0) != Io::FTRUNCATE_OK);
	}

	void _add_and_remove()
	{
		check("create file in a directory that only a lower layer has",
		      _tree.create("/dir/new", "new\n"));
		check("creating it again is refused", _tree.create_result("/dir/new") == Ds::OPEN_ERR_EXISTS);
		check("creating a lower file is refused", _tree.create_result("/dir/a") == Ds::OPEN_ERR_EXISTS);
		check("create in a directory that is not there is refused",
		      _tree.create_result("/none/x") == Ds::OPEN_ERR_UNACCESSIBLE);
		check("listing shows the new file once", _tree.names("/dir"), "a b new sub");

		check("remove lower file", _tree.unlink("/gone/x") == Ds::UNLINK_OK);
		check("removed file is gone", !_tree.exists("/gone/x"));
		check("removed file is not listed", _tree.names("/gone"), "y z");
		check("removing it again fails", _tree.unlink("/gone/x") == Ds::UNLINK_ERR_NO_ENTRY);
		if (_raw) check("whiteout is in the upper layer", _upper.names("/gone"), ".wh.x");
		check("create it anew", _tree.create("/gone/x", "new x\n"));
		check("content of the new file", _tree.read("/gone/x"), "new x\n");
		if (_raw) check("whiteout is gone", _upper.names("/gone"), "x");
		check("remove it once more", _tree.unlink("/gone/x") == Ds::UNLINK_OK);
		check("still the lower file is hidden", !_tree.exists("/gone/x"));

		check("directory with content is not removed",
		      _tree.unlink("/gone") == Ds::UNLINK_ERR_NOT_EMPTY);
		check("remove the rest", _tree.unlink("/gone/y") == Ds::UNLINK_OK
		                      && _tree.unlink("/gone/z") == Ds::UNLINK_OK);
		check("empty directory is listed as such", _tree.names("/gone"), "");
		check("empty directory is removed", _tree.unlink("/gone") == Ds::UNLINK_OK);
		check("removed directory is gone", !_tree.exists("/gone") && !_tree.exists("/gone/y"));

		check("make directory in the place of a removed one", _tree.mkdir("/gone") == Ds::OPENDIR_OK);
		check("it shows nothing of the old one", _tree.names("/gone"), "");
		check("making it again is refused",
		      _tree.mkdir("/gone") == Ds::OPENDIR_ERR_NODE_ALREADY_EXISTS);
		check("create file in it", _tree.create("/gone/y", "other y\n"));
		check("content of the file in it", _tree.read("/gone/y"), "other y\n");
		if (_raw) check("it is marked as opaque", _upper.exists("/gone/.wh..wh..opq"));

		check("make nested directories", _tree.mkdir("/dir/sub/d") == Ds::OPENDIR_OK
		                              && _tree.mkdir("/dir/sub/d/e") == Ds::OPENDIR_OK);
		check("make directory below none", _tree.mkdir("/none/x") == Ds::OPENDIR_ERR_LOOKUP_FAILED);

		/* as 'rm -r' does */
		for (unsigned i = 0; i < 20; i++)
			(void)_tree.unlink(Text("/many/f", i));
		check("all entries of a directory are removed", _tree.names("/many"), "");
		check("file of the upper layer is removed for good",
		      _tree.create("/many/u", "u") && _tree.unlink("/many/u") == Ds::UNLINK_OK
		      && _tree.names("/many") == "");
	}

	void _rename()
	{
		check("rename lower file", _tree.rename("/rendir/f", "/rendir/g") == Ds::RENAME_OK);
		check("content came along", _tree.read("/rendir/g"), "f\n");
		check("old name is gone", _tree.names("/rendir"), "g h sub");
		check("rename over a lower file", _tree.rename("/rendir/g", "/rendir/h") == Ds::RENAME_OK);
		check("content replaced the lower file", _tree.read("/rendir/h"), "f\n");
		check("one file is left", _tree.names("/rendir"), "h sub");
		check("rename to where something was removed",
		      _tree.rename("/rendir/h", "/rendir/f") == Ds::RENAME_OK
		      && _tree.read("/rendir/f") == "f\n");
		check("rename of nothing", _tree.rename("/rendir/none", "/rendir/x") == Ds::RENAME_ERR_NO_ENTRY);
		check("rename of a file onto a directory is refused",
		      _tree.rename("/rendir/f", "/dir") != Ds::RENAME_OK);

		Ds::Rename_result const merged = _tree.rename("/rendir", "/rendir2");
		check("rename of a directory with lower content tells to copy",
		      _local ? merged == Ds::RENAME_ERR_CROSS_FS : merged != Ds::RENAME_OK);
		check("and leaves it alone", _tree.names("/rendir"), "f sub");

		check("make directory", _tree.mkdir("/up") == Ds::OPENDIR_OK && _tree.create("/up/f", "up\n"));
		check("rename new directory", _tree.rename("/up", "/up2") == Ds::RENAME_OK);
		check("content of the renamed directory", _tree.read("/up2/f"), "up\n");
		check("directory cannot move into itself", _tree.rename("/up2", "/up2/x") != Ds::RENAME_OK);
		check("directory cannot replace one with content",
		      _tree.rename("/up2", "/dir") != Ds::RENAME_OK);

		check("clear lower directory", _tree.unlink("/rendir/sub/s") == Ds::UNLINK_OK);
		check("new directory replaces an empty one",
		      _tree.rename("/up2", "/rendir/sub") == Ds::RENAME_OK);
		check("only the content of the new one is there", _tree.names("/rendir/sub"), "f");
		check("the old name is gone", !_tree.exists("/up2"));

		Opened file { _tree.io() };
		check("open file", _tree.open("/open/r", Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK);
		check("rename open file", _tree.rename("/open/r", "/dir/r") == Ds::RENAME_OK);
		check("open file is readable under its new name", file.text(), "r\n");
		check("open file is writeable under its new name",
		      file.write(0, "R") == Io::WRITE_OK && file.sync() == Io::SYNC_OK);
		check("the new name shows it", _tree.read("/dir/r"), "R\n");
		check("remove it while open", _tree.unlink("/dir/r") == Ds::UNLINK_OK);
		check("it is gone", !_tree.exists("/dir/r"));
		check("its name is free", _tree.create("/dir/r", "another\n"));
		file.close();
		check("closing it leaves the other", _tree.read("/dir/r"), "another\n");
	}

	void _open_and_removed()
	{
		Opened file { _tree.io() };
		check("open lower file", _tree.open("/open/f", Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK);
		check("remove it", _tree.unlink("/open/f") == Ds::UNLINK_OK);
		check("its content is readable still", file.text(), "f\n");

		check("it can be written to", file.write(0, "x") == Io::WRITE_OK && file.sync() == Io::SYNC_OK);
		check("it has the new content", file.text(), "x\n");
		check("it does not reappear by that", !_tree.exists("/open/f") && _tree.names("/open") == "");
		check("it can be truncated", file.truncate(1) == Io::FTRUNCATE_OK);

		check("create another", _tree.create("/open/f", "other\n"));
		check("the open one is not affected", file.text(), "x");
		file.close();
		check("the other is not affected", _tree.read("/open/f"), "other\n");

		Opened old { _tree.io() };
		check("open replaced file", _tree.open("/open/f", Ds::OPEN_MODE_RDONLY, old) == Ds::OPEN_OK);
		check("replace it", _tree.create("/open/tmp", "third\n")
		                 && _tree.rename("/open/tmp", "/open/f") == Ds::RENAME_OK);
		check("the replaced one is readable still", old.text(), "other\n");
		old.close();
		check("the replacement is there", _tree.read("/open/f"), "third\n");
		check("nothing else is there", _tree.names("/open"), "f");
		if (_raw) check("nothing is left of removed files", _upper.names("/.wh..wh.work"), "");
	}

	void _reserved()
	{
		check("marker as file is refused", _tree.create_result("/.wh.x")  == Ds::OPEN_ERR_NO_PERM);
		check("marker as directory is refused",
		      _tree.mkdir("/.wh.d") == Ds::OPENDIR_ERR_PERMISSION_DENIED);
		check("marker as new name is refused",
		      _tree.rename("/etc/extra", "/etc/.wh.passwd") == Ds::RENAME_ERR_NO_PERM);
		check("marker cannot be removed", _tree.unlink("/gone/.wh..wh..opq") != Ds::UNLINK_OK);
		check("marker cannot be seen", !_tree.exists("/gone/.wh..wh..opq")
		                            && !_tree.exists("/.wh..wh.work"));
		check("similar name is fine", _tree.create("/dir/.whx", "x") && _tree.read("/dir/.whx") == "x"
		                           && _tree.unlink("/dir/.whx") == Ds::UNLINK_OK);
	}

	void _links()
	{
		check("lower symlink is removed", _tree.unlink("/late/l") == Ds::UNLINK_OK
		                               && !_tree.exists("/late/l"));

		if (!_symlinks) {
			check("symlink that the upper layer cannot store is refused", !_tree.symlink("/dir/l", "a"));
			check("and does not appear", !_tree.exists("/dir/l"));
			return;
		}
		check("make symlink", _tree.symlink("/dir/l", "target/one"));
		check("read new symlink", _tree.readlink("/dir/l"), "target/one");
		check("replace lower symlink", _tree.symlink("/link", "elsewhere", false));
		check("read replaced symlink", _tree.readlink("/link"), "elsewhere");
		check("rename lower symlink", _tree.rename("/late/m", "/late/n") == Ds::RENAME_OK);
		check("read renamed symlink", _tree.readlink("/late/n"), "there");
		check("listing of symlinks", _tree.names("/late"), "n x");
		Opened link { _tree.io() };
		check("making an existing symlink is refused",
		      _tree.openlink("/late/n", true, link) == Ds::OPENLINK_ERR_NODE_ALREADY_EXISTS);
	}

	void _stamp()
	{
		if (!_mtime) return;

		Ds::Stat s { };
		check("copy keeps the modification time",
		      _tree.rename("/late/x", "/late/y") == Ds::RENAME_OK && _tree.stat("/late/y", s)
		      ? s.modification_time.ms_since_1970 : 0, 1000000000000ULL);

		Opened file { _tree.io() };
		check("stamp lower file",
		      _tree.open("/script", Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK
		      && file.ptr->fs().update_modification_timestamp(file.ptr, { 1234567890000ULL })
		      && file.sync() == Io::SYNC_OK);
		check("lower file has the new time", _tree.stat("/script", s)
		      ? s.modification_time.ms_since_1970 : 0, 1234567890000ULL);
		check("and its old content", _tree.read("/script"), "#!\n");
	}

	struct Watcher : Vfs::Watch_response_handler
	{
		unsigned responses = 0;
		Vfs::Vfs_watch_handle *ptr = nullptr;

		Watcher() { }
		Watcher(Watcher const &) = delete;
		Watcher &operator = (Watcher const &) = delete;

		~Watcher() { if (ptr) ptr->close(); }
		void watch_response() override { responses++; }
	};

	bool _watch(Tree &tree, char const *path, Watcher &w)
	{
		if (tree.fs().watch(tree.path(path).string(), &w.ptr, _heap) != Ds::WATCH_OK)
			return false;
		w.ptr->handler(&w);
		return true;
	}

	bool _responded(Watcher &w, unsigned more_than)
	{
		/* the notification of a session arrives with the next I/O */
		for (unsigned i = 0; i < 20 && w.responses <= more_than; i++)
			(void)_tree.read("/etc/extra");
		return w.responses > more_than;
	}

	void _watches()
	{
		Watcher file { }, dir { };
		check("watch lower file",      _watch(_tree, "/dir/sub/c", file));
		check("watch lower directory", _watch(_tree, "/dir2", dir));
		check("watch of nothing is refused", !_watch(_tree, "/none", *new (_heap) Watcher));

		check("change watched file", _tree.write("/dir/sub/c", "C"));
		check("change was noticed", _responded(file, 0));
		unsigned const before = file.responses;
		check("change it again", _tree.write("/dir/sub/c", "D"));
		check("second change was noticed", _responded(file, before));
		check("add to watched directory", _tree.create("/dir2/added", "x"));
		check("addition was noticed", _responded(dir, 0));
		unsigned const added = dir.responses;
		check("remove from watched directory", _tree.unlink("/dir2/new") == Ds::UNLINK_OK);
		check("removal was noticed", _responded(dir, added));
	}

	void _dataspaces()
	{
		if (!_local) return;

		auto content = [&] (char const *path) -> Text
		{
			Dataspace_capability const ds = _tree.fs().dataspace(_tree.path(path).string());
			if (!ds.valid()) return "<none>";
			Text result { };
			{
				Attached_dataspace attached { _env.rm(), ds };
				result = Text(Cstring(attached.local_addr<char const>(), 6));
			}
			_tree.fs().release(_tree.path(path).string(), ds);
			return result;
		};
		/* a session has no dataspaces */
		if (content("/etc/extra") != "<none>")
			check("dataspace of a lower file", content("/etc/extra"), "extra\n");
		if (!_raw)
			check("dataspace of a changed file", content("/dir/r"), "anothe");
	}

	void _first()
	{
		_read();
		_copy_up();
		_truncate();
		_add_and_remove();
		_rename();
		_open_and_removed();
		_reserved();
		_links();
		_stamp();
		_watches();
		_dataspaces();
	}


	/************
	 ** Second **
	 ************/

	void _second()
	{
		check("root after a restart", _tree.names(""),
		      "big dir dir2 etc gone late link many open rendir script");
		check("changed file", _tree.read("/etc/passwd"), "roXX\n");
		check("appended file", _tree.read("/etc/hostname"), "mid\nmore\n");
		check("big file", _verify_big("/big", 0, BIG_SIZE + 16), BIG_SIZE + 16);
		check("truncated file", _tree.read("/dir/a"), "aa");
		check("removed entries", _tree.names("/many"), "");
		check("opaque directory", _tree.names("/gone"), "y");
		check("file in the opaque directory", _tree.read("/gone/y"), "other y\n");
		check("renamed file", _tree.read("/rendir/f"), "f\n");
		check("renamed names", _tree.names("/rendir"), "f sub");
		check("directory that replaced another", _tree.names("/rendir/sub"), "f");
		check("removed symlink", !_tree.exists("/late/l"));
		check("unchanged file", _tree.read("/etc/extra"), "extra\n");
		check("left over copy is cleaned up", !_raw || _upper.names("/.wh..wh.work") == "");
		check("file is changed again", _tree.write("/etc/passwd", "again\n")
		                            && _tree.read("/etc/passwd") == "again\n");
		check("whiteout can be lifted", _tree.create("/many/f0", "back\n")
		                             && _tree.names("/many") == "f0");
	}


	/***********
	 ** Space **
	 ***********/

	void _space()
	{
		Names const before = _tree.names("");

		Opened file { _tree.io() };
		check("open big file", _tree.open("/big", Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK);

		Io::Write_result const written = file.write(0, "x");
		Io::Sync_result  const synced  = file.sync();
		check("write that needs too much space fails",
		      _local ? written == Io::WRITE_ERR_IO : synced != Io::SYNC_OK);
		check("sync tells about it once",
		      (!_local || synced != Io::SYNC_OK) && file.sync() == Io::SYNC_OK);
		check("truncating to something that does not fit fails",
		      file.truncate(BIG_SIZE - 16) != Io::FTRUNCATE_OK);
		check("the lower file is visible and complete", _verify_big("/big", 0, BIG_SIZE), BIG_SIZE);
		check("its size is unchanged", _tree.size("/big"), BIG_SIZE);
		check("rename fails as well", _tree.rename("/big", "/big2") != Ds::RENAME_OK);
		check("nothing else appeared", _tree.names(""), before);
		if (_raw) check("no half copy is left", _upper.names("/.wh..wh.work"), "");
		check("truncating to nothing fits", file.truncate(0) == Io::FTRUNCATE_OK);
		check("there is space for less", _tree.write("/etc/passwd", "small"));
		check("small change is visible", _tree.read("/etc/passwd"), "small");

		/* fill the rest */
		static char block[32*1024];
		Opened filler { _tree.io() };
		check("create file", _tree.open("/etc/fill", Ds::OPEN_MODE_RDWR | Ds::OPEN_MODE_CREATE, filler)
		                     == Ds::OPEN_OK);
		bool full = false;
		for (unsigned i = 0; i < 200 && !full; i++)
			full = filler.write(i*sizeof(block), Const_byte_range_ptr(block, sizeof(block))) != Io::WRITE_OK
			    || (!_local && filler.sync() != Io::SYNC_OK);
		check("a write to a full layer fails, and returns", full);
		check("reading goes on", _tree.read("/etc/hostname"), "mid\n");
	}

	/* a layer is missing */
	void _broken()
	{
		check("nothing is shown", _tree.names(""), "");
		check("nothing can be made", _tree.create_result("/f") != Ds::OPEN_OK);
	}


	/*************
	 ** Rewrite **
	 *************/

	/* change the big file again and again, to be interrupted */
	void _rewrite()
	{
		log("rewriting");
		for (unsigned long i = 0; ; i++) {
			(void)_tree.write("/big", _line(0).string());
			(void)_tree.unlink("/etc/passwd");
			(void)_tree.create("/etc/passwd", "root\n");
			(void)_tree.rename("/etc/passwd", "/etc/p");
			(void)_tree.rename("/etc/p", "/etc/passwd");
		}
	}

	void _intact()
	{
		check("the big file is complete", _verify_big("/big", 0, BIG_SIZE), BIG_SIZE);
		check("its size is right", _tree.size("/big"), BIG_SIZE);
		Names const names = _tree.names("/etc");
		check("a directory makes sense", names == "extra hostname" || names == "extra hostname p"
		                              || names == "extra hostname passwd"
		                              || names == "extra hostname p passwd");
		if (_tree.exists("/etc/passwd")) {
			Text const content = _tree.read("/etc/passwd");
			check("a file makes sense", content == "root\n" || content == "");
		}
		check("it is writeable", _tree.write("/etc/hostname", "x"));
	}


	/************
	 ** Random **
	 ************/

	/**
	 * Return true if all went well
	 */
	bool _random_round(Vfs::Simple_env &vfs, unsigned long seed, unsigned long steps)
	{
		Tree tree  { vfs, _heap, "/cow" },
		     model { vfs, _heap, "/model" };

		Random_ops ops { tree, model, _symlinks, seed };

		bool ok = ops.copy_to_model() && ops.equal(tree);

		for (unsigned long i = 0; ok && i < steps; i++) {
			ok = ops.step() && (i % 16 || ops.equal(tree));
			if (!ok) log("    at step ", i, " of seed ", seed);
		}

		ops.close_all();
		ok = ok && ops.equal(tree);

		/* what another instance finds in the upper layer */
		_config.node().with_optional_sub_node("again", [&] (Node const &config) {
			Vfs::Simple_env &again = *new (_heap) Vfs::Simple_env(_env, _heap, config);
			Tree tree { again, _heap, "/cow" };
			check("another instance sees the same", ops.equal(tree));
		});
		return ok;
	}

	void _random()
	{
		unsigned long const seed   = _config.node().attribute_value("seed",   1UL),
		                    rounds = _config.node().attribute_value("rounds", 1UL),
		                    steps  = _config.node().attribute_value("steps",  100UL);

		check("trees stay equal", _random_round(_vfs, seed, steps));

		/* a fresh upper layer each time, as it loses touch with the lower ones */
		for (unsigned long i = 1; i < rounds; i++)
			_config.node().with_optional_sub_node("vfs", [&] (Node const &config) {
				Vfs::Simple_env &vfs = *new (_heap) Vfs::Simple_env(_env, _heap, config);
				check("trees stay equal", _random_round(vfs, seed + i, steps));
			});
	}

	Main(Env &env) : _env(env)
	{
		log("--- test-vfs_cow, phase ", _phase, " ---");

		bool const unchanged = (_phase == "either") && _tree.read("/etc/passwd") == "root\n";

		if (_phase == "first"  || (_phase == "either" &&  unchanged)) _first();
		if (_phase == "second" || (_phase == "either" && !unchanged)) _second();
		if (_phase == "space")  _space();
		if (_phase == "random") _random();
		if (_phase == "broken")  _broken();
		if (_phase == "rewrite") _rewrite();
		if (_phase == "intact")  _intact();

		log("--- test-vfs_cow: ", _checks, " checks, ", _failed, " failed ---");
		env.parent().exit((int)_failed);
	}
};


void Component::construct(Genode::Env &env) { static Test::Main main(env); }
