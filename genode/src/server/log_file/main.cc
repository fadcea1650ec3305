/*
 * \brief  LOG server that appends to a file
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
 * Each line of each client goes to the end of one file of the component's VFS,
 * behind the client's label in brackets, as core prints it. A client cannot
 * write a line without its label. Once the file has reached its limit, it gets
 * the suffix '.old', replacing an older one, and a new file begins: who reads
 * along reads the old one to its end first.
 *
 * ! config | path: /log | limit: 16M
 * ! + vfs
 * !   + fs
 */

/* Genode includes */
#include <base/attached_rom_dataspace.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>
#include <base/session_label.h>
#include <log_session/log_session.h>
#include <os/vfs.h>
#include <root/component.h>

namespace Log_file {

	using namespace Genode;

	class  Output;
	struct Session;
	struct Root;
	struct Main;
}


class Log_file::Output : Noncopyable
{
	private:

		using Path = Directory::Path;

		Env       &_env;
		Allocator &_alloc;

		Attached_rom_dataspace _config { _env, "config" };

		Root_directory _root = _config.node().with_sub_node("vfs",
			[&] (Node const &vfs) { return Root_directory(_env, _alloc, vfs); },
			[&] { return Root_directory(_env, _alloc, Node()); });

		Path const _path = _config.node().attribute_value("path", Path("/log"));

		size_t const _limit = max(size_t(_config.node().attribute_value("limit",
		                          Number_of_bytes(16*1024*1024))), size_t(4096));

		Constructible<Append_file>   _file   { };
		Constructible<Readonly_file> _reader { };

		size_t _size = 0;

		void _open()
		{
			if (_root.file_exists(_path))
				_size = size_t(_root.file_size(_path));
			_file.construct(_root, _path);
			_reader.construct(_root, _path);
		}

		void _begin_anew()
		{
			Path const old { _path, ".old" };

			_reader.destruct();
			_file.destruct();
			_root.unlink(old);
			_root.rename(_path, old);
			_size = 0;
			_open();
		}

	public:

		Output(Env &env, Allocator &alloc) : _env(env), _alloc(alloc) { _open(); }

		void append(char const *text, size_t length)
		{
			if (_size + length > _limit && _size)
				_begin_anew();

			if (_file->append(text, length) == Append_file::Append_result::OK)
				_size += length;

			/*
			 * Whoever has written a line may count on it to be there before
			 * what it does next. A file server handles the packets of a
			 * session in order: once a read is answered, the write is done.
			 */
			char first = 0;
			_reader->read(Readonly_file::At { 0 }, Byte_range_ptr(&first, 1));
		}
};


struct Log_file::Session : Rpc_object<Log_session>
{
	Output              &_output;
	Session_label const  _label;

	Session(Output &output, Session_label const &label)
	: _output(output), _label(label) { }

	void _line(char const *text, size_t length)
	{
		/* a label has 160 bytes at most, a line what an RPC can carry */
		char buffer[Session_label::capacity() + String::MAX_SIZE + 8];

		size_t at = 0;
		auto add = [&] (char const *from, size_t count) {
			for (size_t i = 0; i < count && at < sizeof(buffer); i++)
				buffer[at++] = from[i]; };

		add("[", 1);
		add(_label.string(), strlen(_label.string()));
		add("] ", 2);
		add(text, length);
		add("\n", 1);
		_output.append(buffer, at);
	}

	void write(String const &string) override
	{
		if (!string.valid_string())
			return;

		char const *text = string.string();
		size_t      rest = strlen(text);

		while (rest) {
			size_t length = 0;
			while (length < rest && text[length] != '\n')
				length++;
			_line(text, length);
			size_t const consumed = min(length + 1, rest);
			text += consumed;
			rest -= consumed;
		}
	}
};


struct Log_file::Root : Root_component<Session>
{
	Output &_output;

	Create_result _create_session(char const *args) override
	{
		return *new (md_alloc()) Session(_output, label_from_args(args));
	}

	Root(Entrypoint &ep, Allocator &alloc, Output &output)
	: Root_component<Session>(ep, alloc), _output(output) { }
};


struct Log_file::Main
{
	Env &_env;

	Heap _heap { _env.ram(), _env.rm() };

	Output _output { _env, _heap };

	Sliced_heap _sessions { _env.ram(), _env.rm() };

	Root _root { _env.ep(), _sessions, _output };

	Main(Env &env) : _env(env)
	{
		env.parent().announce(env.ep().manage(_root));
	}
};


void Component::construct(Genode::Env &env) { static Log_file::Main main(env); }
