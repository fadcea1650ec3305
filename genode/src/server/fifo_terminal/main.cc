/*
 * \brief  Terminal server whose other end is two FIFOs of Linux
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
 * Input is what is read from the FIFO 'in', output is written to 'out', both in
 * the directory 'path'. Whoever has the other ends keeps them open. A write
 * returns when all of it is in the FIFO: so whoever reads slowly slows the
 * writer down, and what a component wrote before its end is there after it.
 *
 * Configuration:
 *
 *   config | path: terminal/c-1/main | tty: yes | columns: 80 | lines: 24
 *          | patient: vfs
 *
 * 'tty': line breaks are those of a terminal of Linux, where Enter sends CR and
 * a new line begins after CR LF; on Genode both is LF. 'columns' and 'lines'
 * may change at any time.
 *
 * There may be several sessions: all of them write, one of them reads, the
 * oldest. Those whose labels begin with 'patient' read only as long as there is
 * no other, and are not told of input before they have asked for it: a VFS
 * reads ahead what others wait for, although nobody uses its file.
 */

/* Genode includes */
#include <base/attached_ram_dataspace.h>
#include <base/attached_rom_dataspace.h>
#include <base/blockade.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>
#include <base/registry.h>
#include <base/session_label.h>
#include <base/thread.h>
#include <root/component.h>
#include <terminal_session/terminal_session.h>

/* Linux includes */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

namespace Fifo_terminal {

	using namespace Genode;

	using Path = String<256>;
	using Size = Terminal::Session::Size;

	static constexpr size_t IO_BUFFER_SIZE = 4096;

	struct Fifo;
	struct Waiter;
	struct Input;
	struct Output;
	struct Sessions;
	struct Session_component;
	struct Root;
	struct Main;
}


struct Fifo_terminal::Fifo : Noncopyable
{
	struct Unavailable : Exception { };

	int const fd;

	Fifo(Path const &dir, char const *name, int flags)
	: fd(::open(Path(dir, "/", name).string(), flags | O_NONBLOCK | O_CLOEXEC))
	{
		if (fd < 0) {
			error("cannot open ", dir, "/", name, ", errno ", errno);
			throw Unavailable();
		}
	}

	/**
	 * Return whether there is something to read, or room to write
	 */
	bool ready(short events, int timeout_ms) const
	{
		struct ::pollfd wanted { .fd = fd, .events = events, .revents = 0 };
		int result;
		do { result = ::poll(&wanted, 1, timeout_ms); } while (result < 0 && errno == EINTR);
		return result > 0 && (wanted.revents & events);
	}
};


/**
 * Thread that waits for input, as often as it is told to
 */
struct Fifo_terminal::Waiter : Thread
{
	Fifo                      const &_fifo;
	Signal_context_capability const  _sigh;
	Blockade                         _go_on { };

	Waiter(Env &env, Fifo const &fifo, Signal_context_capability sigh)
	: Thread(env, "waiter", Stack_size { 16*1024 }), _fifo(fifo), _sigh(sigh) { }

	void entry() override
	{
		for (;;) {
			while (!_fifo.ready(POLLIN, -1))
				::usleep(100*1000);  /* nobody has the other end open */
			Signal_transmitter(_sigh).submit();
			_go_on.block();
		}
	}

	void go_on() { _go_on.wakeup(); }
};


struct Fifo_terminal::Input
{
	Fifo const _fifo;

	bool tty = false;

	Input(Path const &dir) : _fifo(dir, "in", O_RDONLY) { }

	bool avail() const { return _fifo.ready(POLLIN, 0); }

	size_t read(char *dst, size_t size)
	{
		ssize_t const n = ::read(_fifo.fd, dst, size);
		if (n <= 0)
			return 0;

		if (tty)
			for (ssize_t i = 0; i < n; i++)
				if (dst[i] == '\r') dst[i] = '\n';

		return size_t(n);
	}
};


struct Fifo_terminal::Output
{
	Fifo const _fifo;

	bool tty = false;

	char _last = 0;

	Output(Path const &dir) : _fifo(dir, "out", O_WRONLY) { }

	void _write(char const *src, size_t size)
	{
		while (size) {
			ssize_t const n = ::write(_fifo.fd, src, size);
			if (n > 0) {
				src  += n;
				size -= size_t(n);
				continue;
			}
			if (n < 0 && errno != EAGAIN && errno != EINTR)
				return;  /* nobody reads it any more */

			(void)_fifo.ready(POLLOUT, -1);
		}
	}

	void write(char const *src, size_t size)
	{
		if (!tty) {
			_write(src, size);
			return;
		}

		char   buffer[2*IO_BUFFER_SIZE];
		size_t used = 0;

		for (size_t i = 0; i < size; i++) {
			if (src[i] == '\n' && _last != '\r')
				buffer[used++] = '\r';
			buffer[used++] = _last = src[i];
		}
		_write(buffer, used);
	}
};


/**
 * What a session is told of the terminal
 */
struct Fifo_terminal::Sessions : Interface
{
	virtual Size   size() const = 0;
	virtual bool   avail (Session_component &)                         = 0;
	virtual size_t read  (Session_component &, char *, size_t)         = 0;
	virtual void   write (char const *, size_t)                        = 0;
	virtual void   notify()                                            = 0;
};


struct Fifo_terminal::Session_component : Rpc_object<Terminal::Session, Session_component>
{
	Sessions &_sessions;

	Attached_ram_dataspace _io_buffer;

	Signal_context_capability read_avail { }, size_changed { };

	unsigned const number;
	bool     const patient;

	bool asked = false;  /* for input */

	Session_component(Env &env, Sessions &sessions, unsigned number, bool patient)
	:
		_sessions(sessions), _io_buffer(env.ram(), env.rm(), IO_BUFFER_SIZE),
		number(number), patient(patient)
	{ }

	static void submit(Signal_context_capability sigh)
	{
		if (sigh.valid())
			Signal_transmitter(sigh).submit();
	}

	Size size()  override { return _sessions.size(); }
	bool avail() override { return _sessions.avail(*this); }

	size_t _read(size_t size)
	{
		return _sessions.read(*this, _io_buffer.local_addr<char>(), min(size, IO_BUFFER_SIZE));
	}

	size_t _write(size_t size)
	{
		size = min(size, IO_BUFFER_SIZE);
		_sessions.write(_io_buffer.local_addr<char>(), size);
		return size;
	}

	Dataspace_capability _dataspace() { return _io_buffer.cap(); }

	/* the FIFOs are there before any session is */
	void connected_sigh(Signal_context_capability sigh) override { submit(sigh); }

	void read_avail_sigh(Signal_context_capability sigh) override
	{
		read_avail = sigh;
		_sessions.notify();
	}

	void size_changed_sigh(Signal_context_capability sigh) override { size_changed = sigh; }

	/* local alternatives to '_read' and '_write', of which clients have their own */
	size_t read (void *, size_t)       override { return 0; }
	size_t write(void const *, size_t) override { return 0; }
};


struct Fifo_terminal::Root : Root_component<Session_component>
{
	using Registered_session = Registered<Session_component>;
	using Prefix             = String<64>;

	Env      &_env;
	Sessions &_sessions;

	Prefix const _patient;

	unsigned _count = 0;

	Registry<Registered_session> sessions { };

	Root(Env &env, Allocator &alloc, Sessions &terminal, Prefix const &patient)
	:
		Root_component<Session_component>(&env.ep().rpc_ep(), &alloc),
		_env(env), _sessions(terminal), _patient(patient)
	{ }

	Create_result _create_session(char const *args) override
	{
		Session_label const label = label_from_args(args);

		bool const patient = _patient.length() > 1
		                  && strcmp(label.string(), _patient.string(), _patient.length() - 1) == 0;

		return *new (md_alloc())
			Registered_session(sessions, _env, _sessions, _count++, patient);
	}

	/**
	 * Call 'fn' with the session that input is for, if there is one
	 */
	void with_reader(auto const &fn)
	{
		Session_component *reader = nullptr;

		sessions.for_each([&] (Session_component &each) {
			bool const better = !reader
			                 || (reader->patient && !each.patient)
			                 || (reader->patient == each.patient && each.number < reader->number);
			if (better)
				reader = &each;
		});
		if (reader)
			fn(*reader);
	}
};


struct Fifo_terminal::Main : Sessions
{
	Env &_env;

	Sliced_heap _heap { _env.ram(), _env.rm() };

	Attached_rom_dataspace _config { _env, "config" };

	Path const _path { _config.node().attribute_value("path", Path(".")) };

	Input  _input  { _path };
	Output _output { _path };

	Size _size { };

	Root _root { _env, _heap, *this,
	             _config.node().attribute_value("patient", Root::Prefix()) };

	Signal_handler<Main> _input_handler  { _env.ep(), *this, &Main::_handle_input };
	Signal_handler<Main> _config_handler { _env.ep(), *this, &Main::_handle_config };

	Waiter _waiter { _env, _input._fifo, _input_handler };

	bool _waiting = true;  /* the thread does, and says when there is input */

	bool _is_reader(Session_component &session)
	{
		bool result = false;
		_root.with_reader([&] (Session_component &reader) { result = &reader == &session; });
		return result;
	}

	/**
	 * Wait for more input, once somebody has looked for what is there
	 */
	void _wait()
	{
		if (!_waiting) {
			_waiting = true;
			_waiter.go_on();
		}
	}

	void _handle_input()
	{
		_waiting = false;
		notify();
	}

	void _apply_config()
	{
		Node const &config = _config.node();

		_input.tty = _output.tty = config.attribute_value("tty", false);
		_size = { config.attribute_value("columns", 0u), config.attribute_value("lines", 0u) };
	}

	void _handle_config()
	{
		Size const before = _size;

		_config.update();
		_apply_config();

		if (before.columns() != _size.columns() || before.lines() != _size.lines())
			_root.sessions.for_each([&] (Session_component &each) {
				Session_component::submit(each.size_changed); });
	}


	/************************
	 ** Sessions interface **
	 ************************/

	Size size() const override { return _size; }

	bool avail(Session_component &session) override
	{
		session.asked = true;
		if (!_is_reader(session))
			return false;
		if (_input.avail())
			return true;
		_wait();
		return false;
	}

	size_t read(Session_component &session, char *dst, size_t size) override
	{
		session.asked = true;
		if (!_is_reader(session))
			return 0;
		size_t const count = _input.read(dst, size);
		_wait();
		return count;
	}

	void write(char const *src, size_t size) override { _output.write(src, size); }

	void notify() override
	{
		if (!_input.avail())
			return;

		_root.with_reader([&] (Session_component &reader) {
			if (reader.asked || !reader.patient)
				Session_component::submit(reader.read_avail); });
	}

	Main(Env &env) : _env(env)
	{
		/* nobody may read any more what components still write */
		::signal(SIGPIPE, SIG_IGN);

		_apply_config();
		_config.sigh(_config_handler);
		_waiter.start();
		_env.parent().announce(_env.ep().manage(_root));
	}
};


void Component::construct(Genode::Env &env) { static Fifo_terminal::Main main(env); }
