/*
 * \brief  Uplink client that is the other end of a TAP device of Linux
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
 * What 'linux_nic' does, for networks in which not everybody means well. There
 * is one packet buffer more than the router takes in at a time, and whoever
 * sends faster than it works fills them: then nothing is read from the device
 * until the router has given buffers back, and what does not fit into the
 * device's queue meanwhile is dropped by Linux. A device that is down or gone
 * loses what is sent to it, and nobody waits for it.
 *
 * Configuration: the attributes 'tap', the name of a device that is there, and
 * 'mac', the hardware address of the router in its network.
 */

/* Genode includes */
#include <base/attached_rom_dataspace.h>
#include <base/blockade.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>
#include <base/thread.h>
#include <net/mac_address.h>
#include <nic/packet_allocator.h>
#include <uplink_session/connection.h>

/* Linux includes */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace Tap_nic {

	using namespace Genode;

	using Name = String<IFNAMSIZ>;

	struct Device;
	struct Waiter;
	struct Main;
}


/**
 * A TAP device of Linux
 */
struct Tap_nic::Device : Noncopyable
{
	int const fd { ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC) };

	struct Unavailable : Exception { };

	Device(Name const &name)
	{
		struct ::ifreq request { };
		request.ifr_flags = IFF_TAP | IFF_NO_PI;
		copy_cstring(request.ifr_name, name.string(), sizeof(request.ifr_name));

		if (fd < 0 || ::ioctl(fd, TUNSETIFF, &request) != 0) {
			error("cannot open the TAP device ", name, ", errno ", errno);
			throw Unavailable();
		}
	}

	/**
	 * Read one frame
	 *
	 * \return  its size, 0 if there is none now, negative if there will be none
	 */
	long read(char *base, size_t size)
	{
		for (;;) {
			ssize_t const n = ::read(fd, base, size);
			if (n >= 0)          return n;
			if (errno == EAGAIN) return 0;
			if (errno != EINTR)  return -1;
		}
	}

	bool write(char const *base, size_t size)
	{
		for (;;) {
			ssize_t const n = ::write(fd, base, size);
			if (n >= 0)         return true;
			if (errno != EINTR) return false;
		}
	}
};


/**
 * Thread that waits for frames, as often as it is told to
 */
struct Tap_nic::Waiter : Thread
{
	int const                       _fd;
	Signal_context_capability const _sigh;
	Blockade                        _go_on { };

	Waiter(Env &env, int fd, Signal_context_capability sigh)
	:
		Thread(env, "waiter", Stack_size { 16*1024 }), _fd(fd), _sigh(sigh)
	{ }

	void entry() override
	{
		for (;;) {
			struct ::pollfd wanted { .fd = _fd, .events = POLLIN, .revents = 0 };
			while (::poll(&wanted, 1, -1) < 0);
			Signal_transmitter(_sigh).submit();
			_go_on.block();
		}
	}

	void go_on() { _go_on.wakeup(); }
};


struct Tap_nic::Main
{
	static constexpr long   MOST   = Nic::Packet_allocator::OFFSET_PACKET_SIZE;
	static constexpr size_t BUFFER = size_t(Uplink::Session::QUEUE_SIZE)
	                               * size_t(Nic::Packet_allocator::DEFAULT_PACKET_SIZE);

	Env &_env;

	Attached_rom_dataspace _config { _env, "config" };

	Heap _heap { _env.ram(), _env.rm() };

	Nic::Packet_allocator _packets { &_heap };

	Device _device { _config.node().attribute_value("tap", Name("tap0")) };

	Uplink::Connection _uplink {
		_env, &_packets, BUFFER, BUFFER,
		_config.node().attribute_value("mac", Net::Mac_address(uint8_t(2))) };

	Signal_handler<Main> _tap_handler   { _env.ep(), *this, &Main::_handle_tap };
	Signal_handler<Main> _space_handler { _env.ep(), *this, &Main::_handle_space };
	Signal_handler<Main> _sent_handler  { _env.ep(), *this, &Main::_handle_sent };

	Waiter _waiter { _env, _device.fd, _tap_handler };

	bool _full = false;  /* frames are there, and the router has all buffers */
	bool _lost = false;  /* it was said that the device takes no frames */

	void _release_acknowledged()
	{
		while (_uplink.tx()->ack_avail())
			_uplink.tx()->release_packet(_uplink.tx()->get_acked_packet());
	}

	/**
	 * Read one frame into a packet for the router
	 *
	 * \return  as of 'Device::read', or 'MOST + 1' if no packet can be had
	 */
	long _receive_one()
	{
		if (!_uplink.tx()->ready_to_submit())
			return MOST + 1;

		return _uplink.tx()->alloc_packet_attempt(MOST).convert<long>(
			[&] (Packet_descriptor const &packet) {
				char * const base = _uplink.tx()->packet_content(packet);
				long   const size = _device.read(base, MOST);
				if (size > 0)
					_uplink.tx()->submit_packet(Packet_descriptor(packet.offset(), size));
				else
					_uplink.tx()->release_packet(packet);
				return size;
			},
			[&] (auto) { return MOST + 1; });
	}

	void _handle_tap()
	{
		long size = 0;
		do {
			_release_acknowledged();
			size = _receive_one();
		} while (size > 0 && size <= MOST);

		_uplink.tx()->wakeup();

		_full = size > MOST;
		if (size == 0)
			_waiter.go_on();
		if (size < 0)
			error("the TAP device is gone, errno ", errno);
	}

	void _handle_space()
	{
		if (_full)
			_handle_tap();
		else
			_release_acknowledged();
	}

	void _handle_sent()
	{
		auto &rx = *_uplink.rx();

		while (rx.packet_avail() && rx.ready_to_ack()) {
			Packet_descriptor const packet = rx.get_packet();
			if (packet.size() && rx.packet_valid(packet)) {
				bool const taken = _device.write(rx.packet_content(packet), packet.size());
				if (!taken && !_lost)
					warning("the TAP device takes no frames, errno ", errno);
				_lost = !taken;
			}
			rx.acknowledge_packet(packet);
		}
		rx.wakeup();
	}

	Main(Env &env) : _env(env)
	{
		_uplink.tx_channel()->sigh_ack_avail(_space_handler);
		_uplink.tx_channel()->sigh_ready_to_submit(_space_handler);
		_uplink.rx_channel()->sigh_packet_avail(_sent_handler);
		_uplink.rx_channel()->sigh_ready_to_ack(_sent_handler);
		_waiter.start();
	}
};


void Component::construct(Genode::Env &env) { static Tap_nic::Main main(env); }
