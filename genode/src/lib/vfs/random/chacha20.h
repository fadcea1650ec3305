/*
 * \brief  The block function of ChaCha20
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

#ifndef _RANDOM__CHACHA20_H_
#define _RANDOM__CHACHA20_H_

/* Genode includes */
#include <base/stdint.h>
#include <util/string.h>

namespace Vfs_random {

	using namespace Genode;

	struct Key   { uint8_t bytes[32] { }; };
	struct Input { uint8_t bytes[16] { }; };  /* counter and nonce */
	struct Block { uint8_t bytes[64] { }; };

	/**
	 * Overwrite what nobody is to find in memory, which the compiler would
	 * leave out as nobody reads it
	 */
	static inline void wipe(void *start, size_t size)
	{
		bzero(start, size);
		asm volatile ("" : : "r"(start) : "memory");
	}

	static inline void chacha20(Key const &, Input const &, Block &);
}


/**
 * RFC 8439, section 2.3
 */
static inline void Vfs_random::chacha20(Key const &key, Input const &input, Block &out)
{
	auto word = [] (uint8_t const *b) {
		return uint32_t(b[0]) | uint32_t(b[1]) << 8 | uint32_t(b[2]) << 16 | uint32_t(b[3]) << 24; };

	auto rotated = [] (uint32_t v, unsigned by) { return v << by | v >> (32 - by); };

	uint32_t state[16] { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 };

	for (unsigned i = 0; i < 8; i++) state[4 + i]  = word(key.bytes + 4*i);
	for (unsigned i = 0; i < 4; i++) state[12 + i] = word(input.bytes + 4*i);

	uint32_t x[16];
	for (unsigned i = 0; i < 16; i++) x[i] = state[i];

	auto quarter = [&] (unsigned a, unsigned b, unsigned c, unsigned d)
	{
		x[a] += x[b]; x[d] = rotated(x[d] ^ x[a], 16);
		x[c] += x[d]; x[b] = rotated(x[b] ^ x[c], 12);
		x[a] += x[b]; x[d] = rotated(x[d] ^ x[a], 8);
		x[c] += x[d]; x[b] = rotated(x[b] ^ x[c], 7);
	};

	for (unsigned round = 0; round < 10; round++) {

		/* columns */
		quarter(0, 4,  8, 12);
		quarter(1, 5,  9, 13);
		quarter(2, 6, 10, 14);
		quarter(3, 7, 11, 15);

		/* diagonals */
		quarter(0, 5, 10, 15);
		quarter(1, 6, 11, 12);
		quarter(2, 7,  8, 13);
		quarter(3, 4,  9, 14);
	}

	for (unsigned i = 0; i < 16; i++) {
		uint32_t const v = x[i] + state[i];
		for (unsigned n = 0; n < 4; n++)
			out.bytes[4*i + n] = uint8_t(v >> 8*n);
	}

	wipe(state, sizeof(state));
	wipe(x, sizeof(x));
}

#endif /* _RANDOM__CHACHA20_H_ */
