/*
 * \brief  What a component finds in the device nodes of its files
 * \author the capsa authors
 * \date   2026-11-29
 *
 * Configuration: a 'vfs' node, and steps, each of which is answered by a line.
 *
 *   config
 *   + vfs | + fs | label: root -> /
 *   + hex /dev/random | bytes: 32             hex: 32 bytes that were read
 *   + write /dev/random | content: text       wrote: how many bytes
 *   + read /dev/rtc                           read: its first line
 *   + pipe /dev/pipe | content: text          piped: what came out of a new pipe
 *   + echo /dev/terminal | size: /dev/.terminal
 *                                             in the file itself, each line that
 *                                             was read, behind the size, until one
 *                                             is 'bye'
 *   + flood /dev/terminal | lines: 1000       as many lines, in the file itself
 *   + vector                                  vector: a block of ChaCha20
 *   + sleep                                   stays there, instead of exiting
 *
 * 'none: ' with the name of a file is the answer where there is no such file,
 * 'failed: ' where it is there and does not do that.
 */

/*
 * Copyright (C) 2026 the capsa authors
 *
 * This file is part of capsa. It is combined with the Genode OS framework
 * and distributed under the terms of the GNU Affero General Public License
 * version 3.
 */

/* Genode includes */
#include <base/attached_rom_dataspace.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>
#include <os/vfs.h>
#include <util/formatted_output.h>

/* of the plugin */
#include <chacha20.h>

namespace Test {

	using namespace Genode;

	using Name = Directory::Path;
	using Text = String<256>;

	struct Hex;
	struct File;
	struct Main;
}


struct Test::Hex
{
	uint8_t const * const start;
	size_t          const size;

	void print(Output &out) const
	{
		for (size_t i = 0; i < size; i++)
			Genode::print(out, Genode::Hex(start[i], Genode::Hex::OMIT_PREFIX, Genode::Hex::PAD));
	}
};


/**
 * Open file, whose operations are done when they return
 */
struct Test::File : Noncopyable
{
	using Service = Vfs::File_io_service;

	struct Absent : Exception { };
	struct Failed : Exception { };

	Vfs::Env &_env;

	Vfs::Vfs_handle &_handle;

	static Vfs::Vfs_handle &_open(Vfs::Env &env, Name const &name, unsigned mode)
	{
		Vfs::Vfs_handle *handle = nullptr;
		if (env.root_dir().open(name.string(), mode, &handle, env.alloc())
		    != Vfs::Directory_service::OPEN_OK || !handle)
			throw Absent();
		return *handle;
	}

	File(Vfs::Env &env, Name const &name, unsigned mode)
	: _env(env), _handle(_open(env, name, mode)) { }

	~File() { _handle.close(); }

	size_t read(char *dst, size_t size)
	{
		while (!_handle.fs().queue_read(&_handle, size))
			_env.io().commit_and_wait();

		for (;;) {
			size_t count = 0;
			switch (_handle.fs().complete_read(&_handle, Byte_range_ptr(dst, size), count)) {
			case Service::READ_OK:     _handle.advance_seek(count); return count;
			case Service::READ_QUEUED: _env.io().commit_and_wait(); continue;
			default:                   throw Failed();
			}
		}
	}

	size_t write(char const *src, size_t size)
	{
		for (;;) {
			size_t count = 0;
			switch (_handle.fs().write(&_handle, Const_byte_range_ptr(src, size), count)) {
			case Service::WRITE_OK: break;
			case Service::WRITE_ERR_WOULD_BLOCK: _env.io().commit_and_wait(); continue;
			default: throw Failed();
			}
			_handle.advance_seek(count);
			sync();
			return count;
		}
	}

	void sync()
	{
		while (!_handle.fs().queue_sync(&_handle))
			_env.io().commit_and_wait();

		while (_handle.fs().complete_sync(&_handle) == Service::SYNC_QUEUED)
			_env.io().commit_and_wait();
	}
};


struct Test::Main
{
	using Mode = Vfs::Directory_service;

	Env &_env;

	Heap _heap { _env.ram(), _env.rm() };

	Attached_rom_dataspace _config { _env, "config" };

	Vfs::Simple_env _vfs = _config.node().with_sub_node("vfs",
		[&] (Node const &node) -> Vfs::Simple_env { return { _env, _heap, node }; },
		[&] ()                 -> Vfs::Simple_env { return { _env, _heap, Node() }; });

	char _buffer[4096] { };

	void _hex(Name const &name, Node const &step)
	{
		size_t const wanted = min(step.attribute_value("bytes", size_t(16)), sizeof(_buffer));

		File file(_vfs, name, Mode::OPEN_MODE_RDONLY);
		size_t count = 0;
		while (count < wanted) {
			size_t const got = file.read(_buffer + count, wanted - count);
			if (!got) break;
			count += got;
		}

		/* LOG has lines of less than 200 characters */
		for (size_t at = 0; at < count; at += 64)
			log("hex: ", Hex { (uint8_t const *)_buffer + at, min(count - at, size_t(64)) });
	}

	void _write(Name const &name, Node const &step)
	{
		Text const content = step.attribute_value("content", Text());
		File file(_vfs, name, Mode::OPEN_MODE_WRONLY);
		log("wrote: ", file.write(content.string(), content.length() - 1));
	}

	void _read(Name const &name)
	{
		File file(_vfs, name, Mode::OPEN_MODE_RDONLY);
		size_t length = file.read(_buffer, 180);
		for (size_t i = 0; i < length; i++)
			if (_buffer[i] == '\n' || _buffer[i] == 0) length = i;
		log("read: ", Cstring(_buffer, length));
	}

	void _pipe(Name const &name, Node const &step)
	{
		Text const content = step.attribute_value("content", Text());

		/* the pipe is there as long as this file is open */
		File made(_vfs, Name(name, "/new"), Mode::OPEN_MODE_RDONLY);
		size_t const length = made.read(_buffer, 64);
		Name const pipe { name, "/", Cstring(_buffer, length) };

		File in (_vfs, Name(pipe, "/in"),  Mode::OPEN_MODE_WRONLY);
		File out(_vfs, Name(pipe, "/out"), Mode::OPEN_MODE_RDONLY);
		in.write(content.string(), content.length() - 1);

		log("piped: ", Cstring(_buffer, out.read(_buffer, sizeof(_buffer))));
	}

	/**
	 * Return the number in a file
	 */
	unsigned _number(Name const &name)
	{
		char digits[16] { };
		File(_vfs, name, Mode::OPEN_MODE_RDONLY).read(digits, sizeof(digits) - 1);
		unsigned value = 0;
		(void)ascii_to(digits, value);
		return value;
	}

	void _echo(Name const &name, Node const &step)
	{
		Name const size = step.attribute_value("size", Name());

		File in (_vfs, name, Mode::OPEN_MODE_RDONLY),
		     out(_vfs, name, Mode::OPEN_MODE_WRONLY);

		size_t used = 0;
		for (;;) {

			size_t length = 0;
			while (length < used && _buffer[length] != '\n')
				length++;

			if (length == used) {
				used += in.read(_buffer + used, sizeof(_buffer) - used);
				continue;
			}

			String<300> const line { Cstring(_buffer, length) };
			String<300> answer { line, "\n" };
			if (size.length() > 1)
				answer = { _number(Name(size, "/columns")), "x",
				           _number(Name(size, "/rows")), " ", line, "\n" };

			out.write(answer.string(), answer.length() - 1);
			if (line == "bye")
				return;

			used -= length + 1;
			memmove(_buffer, _buffer + length + 1, used);
		}
	}

	void _flood(Name const &name, Node const &step)
	{
		File out(_vfs, name, Mode::OPEN_MODE_WRONLY);
		for (unsigned i = 0; i < step.attribute_value("lines", 1u); i++) {
			String<100> const line { "line ", i, " ", Repeated(60, Char('x')), "\n" };
			char const *at = line.string();
			for (size_t left = line.length() - 1; left; ) {
				size_t const count = out.write(at, left);
				at += count, left -= count;
			}
		}
	}

	void _vector()
	{
		Vfs_random::Key   key   { };
		Vfs_random::Input input { .bytes = { 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0x4a } };
		Vfs_random::Block block { };

		for (unsigned i = 0; i < sizeof(key.bytes); i++)
			key.bytes[i] = uint8_t(i);

		Vfs_random::chacha20(key, input, block);
		log("vector: ", Hex { block.bytes, sizeof(block.bytes) });
	}

	Main(Env &env) : _env(env)
	{
		bool stays = false;

		_config.node().for_each_sub_node([&] (Node const &step) {

			Name const name = step.attribute_value("name", Name());

			try {
				if (step.has_type("hex"))    _hex(name, step);
				if (step.has_type("write"))  _write(name, step);
				if (step.has_type("read"))   _read(name);
				if (step.has_type("pipe"))   _pipe(name, step);
				if (step.has_type("echo"))   _echo(name, step);
				if (step.has_type("flood"))  _flood(name, step);
				if (step.has_type("vector")) _vector();
				if (step.has_type("sleep"))  stays = true;
			}
			catch (File::Absent) { log("none: ",   name); }
			catch (File::Failed) { log("failed: ", name); }
		});

		log("done");

		if (!stays)
			_env.parent().exit(0);
	}
};


void Component::construct(Genode::Env &env) { static Test::Main main(env); }
