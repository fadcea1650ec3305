/*
 * \brief  Random bytes, from a seed that is secret
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

#ifndef _RANDOM__GENERATOR_H_
#define _RANDOM__GENERATOR_H_

/* Genode includes */
#include <util/noncopyable.h>

/* local includes */
#include "chacha20.h"

namespace Vfs_random { class Generator; }


/**
 * ChaCha20 that forgets its key with each use of it
 *
 * Of what one key yields, the first bytes are the next key, and each byte is
 * erased when it is handed out. So who gets to see the memory later learns
 * nothing of what was handed out before.
 */
class Vfs_random::Generator : Noncopyable
{
	private:

		static constexpr unsigned BLOCKS = 8;

		Key   _key { };
		Block _blocks[BLOCKS] { };

		size_t _left = 0;

		uint8_t *_end() { return (uint8_t *)_blocks + sizeof(_blocks); }

		void _refill()
		{
			for (unsigned i = 0; i < BLOCKS; i++) {
				Input counter { };
				counter.bytes[0] = uint8_t(i);
				chacha20(_key, counter, _blocks[i]);
			}
			memcpy(&_key, _blocks, sizeof(_key));
			wipe(_blocks, sizeof(_key));
			_left = sizeof(_blocks) - sizeof(_key);
		}

	public:

		Generator(Key const &seed) { memcpy(&_key, &seed, sizeof(_key)); }

		~Generator()
		{
			wipe(&_key, sizeof(_key));
			wipe(_blocks, sizeof(_blocks));
		}

		/**
		 * Let the next bytes depend on 'data' as well
		 *
		 * Whoever chooses 'data' knows no more of them than before: data is the
		 * input of a function that has the secret key. It is never the input
		 * that bytes to hand out are made of, which ends with zero.
		 */
		void mix(char const *data, size_t size)
		{
			while (size) {
				Input input { };
				size_t const count = min(size, sizeof(input.bytes) - 1);
				memcpy(input.bytes, data, count);
				input.bytes[sizeof(input.bytes) - 1] = uint8_t(0x80 | count);

				Block next { };
				chacha20(_key, input, next);
				memcpy(&_key, &next, sizeof(_key));
				wipe(&next, sizeof(next));

				data += count;
				size -= count;
			}
			wipe(_blocks, sizeof(_blocks));
			_left = 0;
		}

		void generate(char *dst, size_t size)
		{
			while (size) {
				if (!_left)
					_refill();

				size_t const count = min(size, _left);
				uint8_t * const start = _end() - _left;
				memcpy(dst, start, count);
				wipe(start, count);

				_left -= count;
				dst   += count;
				size  -= count;
			}
		}
};

#endif /* _RANDOM__GENERATOR_H_ */
