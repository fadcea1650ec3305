/*
 * \brief  Echo server for Nic sessions, without an IP stack
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
 * The component sends back what reaches it, to show that it was reached: ICMP
 * echo requests, UDP datagrams, and the payload of TCP segments. It has no
 * address of its own but answers for all that are asked for, and no state:
 * a TCP connection is what the segments of the peer say it is (RFC 9293).
 * The window is one segment of the size that everybody has to take, so that
 * there is never more than one under way. Lost ones are the peer's to repeat.
 *
 * The attribute 'label' of the configuration is that of the Nic session.
 *
 * With a node 'ask' it asks a name server for the IPv4 address of a name, once
 * a second until there is an answer (RFC 1035): 'name', 'server', and 'own', the
 * address to ask from. Then it exits, unless 'stay' is set.
 */

/* Genode includes */
#include <base/attached_rom_dataspace.h>
#include <base/component.h>
#include <base/heap.h>
#include <base/log.h>
#include <nic/packet_allocator.h>
#include <net/ipv4.h>
#include <nic_session/connection.h>
#include <timer_session/connection.h>

namespace Test {

	using namespace Genode;

	struct Frame;
	struct Question;
	struct Main;

	enum { ETHERNET = 14, ARP = 28, IPV4 = 20, UDP = 8, TCP = 20, ICMP = 8 };
	enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
	enum { FIRST_SEQUENCE_NUMBER = 1000, WINDOW = 536 };
}


/**
 * A frame that is turned into its own answer
 */
struct Test::Frame
{
	uint8_t * const base;
	size_t          size;

	unsigned get16(size_t at) const { return base[at] << 8 | base[at + 1]; }

	uint32_t get32(size_t at) const { return uint32_t(get16(at)) << 16 | get16(at + 2); }

	void set16(size_t at, unsigned value)
	{
		base[at]     = uint8_t(value >> 8);
		base[at + 1] = uint8_t(value);
	}

	void set32(size_t at, uint32_t value)
	{
		set16(at, value >> 16);
		set16(at + 2, value & 0xffff);
	}

	void swap(size_t a, size_t b, size_t length)
	{
		for (size_t i = 0; i < length; i++) {
			uint8_t const kept = base[a + i];
			base[a + i] = base[b + i];
			base[b + i] = kept;
		}
	}

	/**
	 * Sum as of RFC 1071, not yet folded
	 */
	uint32_t sum(size_t at, size_t length) const
	{
		uint32_t result = 0;
		for (size_t i = 0; i + 1 < length; i += 2)
			result += get16(at + i);
		if (length & 1)
			result += base[at + length - 1] << 8;
		return result;
	}

	static unsigned folded(uint32_t sum)
	{
		while (sum >> 16)
			sum = (sum & 0xffff) + (sum >> 16);
		return ~sum & 0xffff;
	}

	bool answer(uint8_t const *mac)
	{
		if (size < ETHERNET)
			return false;

		memcpy(base, base + 6, 6);
		memcpy(base + 6, mac, 6);

		switch (get16(12)) {
		case 0x0806: return _answer_arp(mac);
		case 0x0800: return _answer_ipv4();
		}
		return false;
	}

	bool _answer_arp(uint8_t const *mac)
	{
		enum { OPERATION = ETHERNET + 6, SENDER = ETHERNET + 8, TARGET = ETHERNET + 18 };

		/* a request whose sender asks for itself is an announcement */
		if (size < ETHERNET + ARP || get16(OPERATION) != 1
		 || get32(SENDER + 6) == get32(TARGET + 6))
			return false;

		set16(OPERATION, 2);
		swap(SENDER, TARGET, 10);
		memcpy(base + SENDER, mac, 6);
		return true;
	}

	bool _answer_ipv4()
	{
		enum { TOTAL = ETHERNET + 2, FRAGMENT = ETHERNET + 6, PROTOCOL = ETHERNET + 9,
		       SOURCE = ETHERNET + 12, DESTINATION = ETHERNET + 16, PAYLOAD = ETHERNET + IPV4 };

		/* no options, no fragments, nobody but a single host (224.0.0.0 and above are groups) */
		if (size < PAYLOAD || base[ETHERNET] != 0x45 || (get16(FRAGMENT) & 0xbfff)
		 || base[DESTINATION] >= 224 || get16(TOTAL) < IPV4 || ETHERNET + get16(TOTAL) > size)
			return false;

		size_t const length = get16(TOTAL) - IPV4;

		/* the checksum of the header does not depend on the order of the addresses */
		swap(SOURCE, DESTINATION, 4);

		switch (base[PROTOCOL]) {

		case 1:
			if (length < ICMP || base[PAYLOAD] != 8)
				return false;
			base[PAYLOAD] = 0;
			set16(PAYLOAD + 2, 0);
			set16(PAYLOAD + 2, folded(sum(PAYLOAD, length)));
			return true;

		case 6:
			return length >= TCP && _answer_tcp(PAYLOAD, length);

		case 17:
			if (length < UDP)
				return false;
			swap(PAYLOAD, PAYLOAD + 2, 2);
			return true;
		}
		return false;
	}

	bool _answer_tcp(size_t const at, size_t const length)
	{
		enum { TOTAL = ETHERNET + 2, HEADER_SUM = ETHERNET + 10, SOURCE = ETHERNET + 12 };

		size_t   const header  = (base[at + 12] >> 4)*4;
		unsigned const flags   = base[at + 13];
		uint32_t const theirs  = get32(at + 4);
		uint32_t const ours    = get32(at + 8);

		if (header < TCP || header > length || (flags & RST))
			return false;

		size_t const payload = length - header;

		/* a segment that merely acknowledges is not answered */
		if (!payload && !(flags & (SYN | FIN)))
			return false;

		/* the answer has no options */
		for (size_t i = 0; i < payload; i++)
			base[at + TCP + i] = base[at + header + i];

		swap(at, at + 2, 2);
		set32(at + 4, flags & SYN ? uint32_t(FIRST_SEQUENCE_NUMBER) : ours);
		set32(at + 8, theirs + uint32_t(payload) + (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0));
		base[at + 12] = (TCP/4) << 4;
		base[at + 13] = uint8_t(ACK | (flags & (SYN | FIN)) | (payload ? PSH : 0));
		set16(at + 14, WINDOW);
		set32(at + 16, 0);

		size_t const segment = TCP + payload;
		set16(TOTAL, unsigned(IPV4 + segment));
		set16(HEADER_SUM, 0);
		set16(HEADER_SUM, folded(sum(ETHERNET, IPV4)));
		set16(at + 16, folded(sum(at, segment) + sum(SOURCE, 8) + 6 + uint32_t(segment)));
		size = ETHERNET + IPV4 + segment;
		return true;
	}
};


/**
 * A question to a name server, and what it answers
 */
struct Test::Question
{
	enum { AT_UDP = ETHERNET + IPV4, AT_DNS = AT_UDP + UDP, AFTER = AT_DNS + 12,
	       PORT = 53, FROM = 5353, ID = 0x4e53 };

	using Name = String<128>;

	Name              const name;
	Net::Ipv4_address const own;
	Net::Ipv4_address const server;
	bool              const stay;

	bool answered = false;

	Question(Node const &node)
	:
		name  (node.attribute_value("name",   Name())),
		own   (node.attribute_value("own",    Net::Ipv4_address())),
		server(node.attribute_value("server", Net::Ipv4_address())),
		stay  (node.attribute_value("stay",   false))
	{ }

	/**
	 * Fill 'base', which has zeros, with a frame for everybody
	 *
	 * \return  its size
	 */
	size_t write(uint8_t *base, uint8_t const *mac) const
	{
		Frame frame { base, 0 };

		for (unsigned i = 0; i < 6; i++)
			base[i] = 0xff;
		memcpy(base + 6, mac, 6);
		frame.set16(12, 0x0800);

		frame.set16(AT_DNS, ID);
		frame.set16(AT_DNS + 2, 0x0100);  /* recursion is desired */
		frame.set16(AT_DNS + 4, 1);

		size_t length = AFTER;
		size_t label  = length++;
		for (char const *c = name.string(); *c; c++) {
			if (*c == '.') { label = length++; continue; }
			base[length++] = uint8_t(*c);
			base[label]++;
		}
		length++;
		frame.set16(length, 1);      /* A */
		frame.set16(length + 2, 1);  /* IN */
		length += 4;

		base[ETHERNET]     = 0x45;
		base[ETHERNET + 8] = 64;
		base[ETHERNET + 9] = 17;
		frame.set16(ETHERNET + 2, unsigned(length - ETHERNET));
		memcpy(base + ETHERNET + 12, own.addr, 4);
		memcpy(base + ETHERNET + 16, server.addr, 4);
		frame.set16(ETHERNET + 10, Frame::folded(frame.sum(ETHERNET, IPV4)));

		frame.set16(AT_UDP, FROM);
		frame.set16(AT_UDP + 2, PORT);
		frame.set16(AT_UDP + 4, unsigned(length - AT_UDP));
		return length;
	}

	/**
	 * Take a frame that may be the answer
	 */
	bool read(Frame const &frame)
	{
		if (frame.size < AFTER || frame.get16(12) != 0x0800
		 || frame.base[ETHERNET] != 0x45 || frame.base[ETHERNET + 9] != 17
		 || frame.get16(AT_UDP) != PORT || frame.get16(AT_DNS) != ID)
			return false;

		unsigned const code  = frame.get16(AT_DNS + 2) & 0xf;
		size_t   const total = ETHERNET + frame.get16(ETHERNET + 2);

		/* the only record is the last thing in the answer, and ends with the address */
		if (code || frame.get16(AT_DNS + 6) != 1 || total > frame.size || total < AFTER + 4)
			log("no address for ", name, ": code ", code, ", ", frame.get16(AT_DNS + 6), " answers");
		else
			log(name, " is ", *reinterpret_cast<Net::Ipv4_address const *>(frame.base + total - 4));
		answered = true;
		return true;
	}
};


struct Test::Main
{
	enum { PACKET = Nic::Packet_allocator::DEFAULT_PACKET_SIZE,
	       BUFFER = Nic::Session::QUEUE_SIZE*PACKET };

	Env &_env;

	Heap _heap { _env.ram(), _env.rm() };

	Nic::Packet_allocator _packets { &_heap };

	Attached_rom_dataspace _config { _env, "config" };

	using Label = Session_label::String;

	Nic::Connection _nic { _env, &_packets, BUFFER, BUFFER,
	                       _config.node().attribute_value("label", Label()) };

	Net::Mac_address const _mac { _nic.mac_address() };

	Signal_handler<Main> _handler { _env.ep(), *this, &Main::_handle };

	Constructible<Question>          _question { };
	Constructible<Timer::Connection> _timer    { };

	Signal_handler<Main> _timer_handler { _env.ep(), *this, &Main::_ask };

	void _ask()
	{
		if (_question->answered)
			return;

		uint8_t frame[PACKET] { };
		_send(frame, _question->write(frame, _mac.addr));
		_nic.tx()->wakeup();
	}

	void _send(uint8_t const *frame, size_t size)
	{
		while (_nic.tx()->ack_avail())
			_nic.tx()->release_packet(_nic.tx()->get_acked_packet());

		/* without room the packet is lost, as it may be on any network */
		if (!_nic.tx()->ready_to_submit())
			return;

		_nic.tx()->alloc_packet_attempt(size).with_result(
			[&] (Nic::Packet_descriptor const packet) {
				memcpy(_nic.tx()->packet_content(packet), frame, size);
				_nic.tx()->submit_packet(packet);
			},
			[&] (auto) { });
	}

	void _handle()
	{
		while (_nic.rx()->packet_avail() && _nic.rx()->ready_to_ack()) {

			Nic::Packet_descriptor const packet = _nic.rx()->get_packet();

			uint8_t copy[PACKET];
			size_t const size = min(packet.size(), sizeof(copy));
			memcpy(copy, _nic.rx()->packet_content(packet), size);
			_nic.rx()->acknowledge_packet(packet);

			Frame frame { copy, size };
			if (_question.constructed() && _question->read(frame)) {
				if (!_question->stay)
					_env.parent().exit(0);
				continue;
			}
			if (frame.answer(_mac.addr))
				_send(copy, frame.size);
		}
	}

	Main(Env &env) : _env(env)
	{
		_nic.rx_channel()->sigh_packet_avail(_handler);
		_nic.rx_channel()->sigh_ready_to_ack(_handler);
		_nic.tx_channel()->sigh_ack_avail(_handler);
		log("echo server at ", _mac);
		_handle();

		_config.node().with_optional_sub_node("ask", [&] (Node const &node) {
			_question.construct(node);
			_timer.construct(_env);
			_timer->sigh(_timer_handler);
			_timer->trigger_periodic(1000*1000);
		});
	}
};


void Component::construct(Genode::Env &env) { static Test::Main main(env); }
