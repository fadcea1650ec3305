/*
 * \brief  What a component reaches through a File_system session
 * \author the capsa authors
 * \date   2026-11-29
 *
 * It talks to the server without Genode's VFS in between, which would tidy up
 * paths and names before they are sent. Configuration:
 *
 *   config | label: root -> /
 *   + make /some/dir | file: name | content: text
 *   + read /some/dir | file: name
 *   + sleep
 *
 * Each step is answered by a line: 'made', 'read: ' with the content, or
 * 'kept out'. With 'sleep' it stays there, otherwise it exits.
 */

/*
 * Copyright (C) 2026 the capsa authors
 *
 * This file is part of capsa. It is combined with the Genode OS framework
 * and distributed under the terms of the GNU Affero General Public License
 * version 3.
 */

/* Genode includes */
#include <base/allocator_avl.h>
#include <base/attached_rom_dataspace.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>
#include <file_system_session/connection.h>

namespace Test {

	using namespace Genode;

	struct Main;
}


struct Test::Main
{
	using Text  = String<256>;
	using Label = String<128>;

	Env &_env;

	Attached_rom_dataspace _config { _env, "config" };

	Heap _heap { _env.ram(), _env.rm() };

	Allocator_avl _packets { &_heap };

	File_system::Connection _fs {
		_env, _packets,
		_config.node().attribute_value("label", Label("root -> /")).string(), true };

	Io_signal_handler<Main> _answered { _env.ep(), *this, &Main::_handle_answer };

	void _handle_answer() { }

	bool _tried(auto const &fn)
	{
		try { return fn(); } catch (...) { return false; }
	}

	using Packet = File_system::Packet_descriptor;

	/**
	 * Let the server answer 'packet', which is released by the caller
	 */
	Packet _answer(Packet const &packet)
	{
		auto &tx = *_fs.tx();

		tx.submit_packet(packet);

		while (!tx.ack_avail())
			_env.ep().wait_and_dispatch_one_io_signal();

		return tx.get_acked_packet();
	}

	/**
	 * Let the server read or write the begin of a file
	 *
	 * \return number of bytes that it has handled
	 */
	size_t _transfer(File_system::File_handle file, auto const operation,
	                 char *content, size_t const size)
	{
		auto &tx = *_fs.tx();

		Packet packet(tx.alloc_packet(size), file, operation, size, 0);

		memcpy(tx.packet_content(packet), content, size);
		packet = _answer(packet);

		size_t const count = packet.succeeded() ? min(packet.length(), size) : 0;

		memcpy(content, tx.packet_content(packet), count);
		tx.release_packet(packet);
		return count;
	}

	/**
	 * Wait until all that was written has arrived
	 *
	 * A server that hands on to another one answers a write before that has
	 * taken it. Closed without a sync, the file is gone for it by then.
	 */
	bool _synced(File_system::File_handle file)
	{
		Packet const packet = _answer(Packet(_fs.tx()->alloc_packet(0), file, Packet::SYNC, 0));
		_fs.tx()->release_packet(packet);
		return packet.succeeded();
	}

	void _with_file(Node const &step, File_system::Mode mode, bool create, auto const &fn)
	{
		Text const path = step.attribute_value("name", Text()),
		           name = step.attribute_value("file", Text());

		bool const done = _tried([&] {
			File_system::Dir_handle const dir = _fs.dir(path.string(), false);
			return fn(_fs.file(dir, name.string(), mode, create)); });

		if (!done)
			log("kept out: ", path, " ", name);
	}

	void _make(Node const &step)
	{
		_with_file(step, File_system::READ_WRITE, true, [&] (File_system::File_handle file) {
			Text const content = step.attribute_value("content", Text());
			size_t const size = content.length() - 1;
			char buffer[Text::capacity()] { };
			copy_cstring(buffer, content.string(), sizeof(buffer));
			bool const ok = _transfer(file, Packet::WRITE, buffer, size) == size && _synced(file);
			_fs.close(file);
			if (ok) log("made");
			return ok;
		});
	}

	void _read(Node const &step)
	{
		_with_file(step, File_system::READ_ONLY, false, [&] (File_system::File_handle file) {
			char buffer[200] { };
			size_t const count = _transfer(file, Packet::READ, buffer, sizeof(buffer));
			_fs.close(file);
			log("read: ", Cstring(buffer, count));
			return true;
		});
	}

	Main(Env &env) : _env(env)
	{
		_fs.sigh(_answered);

		bool stays = false;

		_config.node().for_each_sub_node([&] (Node const &step) {
			if (step.has_type("make"))  _make(step);
			if (step.has_type("read"))  _read(step);
			if (step.has_type("sleep")) stays = true;
		});

		log("done");

		if (!stays)
			_env.parent().exit(0);
	}
};


void Component::construct(Genode::Env &env) { static Test::Main main(env); }
