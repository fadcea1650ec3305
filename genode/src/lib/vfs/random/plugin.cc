/*
 * \brief  Files of random bytes that nobody can predict: /dev/random, /dev/urandom
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

/* Genode includes */
#include <base/attached_rom_dataspace.h>
#include <base/log.h>
#include <trace/timestamp.h>
#include <vfs/file_system_factory.h>
#include <vfs/single_file_system.h>

/* local includes */
#include "generator.h"

namespace Vfs_random {

	using namespace Genode::Vfs;

	struct Factory;
	struct File_system;
}


/**
 * All files of a component are of one generator: of two with the same seed,
 * the one would tell what the other hands out
 */
struct Vfs_random::Factory : File_system_factory
{
	struct Invalid_seed : Exception { };

	Constructible<Generator> _generator { };

	static uint8_t _digit(char c)
	{
		if (c >= '0' && c <= '9') return uint8_t(c - '0');
		if (c >= 'a' && c <= 'f') return uint8_t(c - 'a' + 10);
		throw Invalid_seed();
	}

	/**
	 * Read the seed from a ROM module: 64 digits, so that one which is empty
	 * or cut off, all zeros in memory, is not taken for a seed
	 *
	 * \throw Invalid_seed
	 */
	static void _read_seed(Genode::Env &env, String<64> const &name, Key &key)
	{
		Attached_rom_dataspace rom { env, name.string() };

		if (!rom.valid() || rom.size() < 2*sizeof(key.bytes))
			throw Invalid_seed();

		char const * const digits = rom.local_addr<char const>();
		for (unsigned i = 0; i < sizeof(key.bytes); i++)
			key.bytes[i] = uint8_t(_digit(digits[2*i]) << 4 | _digit(digits[2*i + 1]));
	}

	Generator &_generator_for(Vfs::Env &env, Node const &config)
	{
		if (!_generator.constructed()) {

			Key seed { };
			_read_seed(env.env(), config.attribute_value("seed", String<64>("seed")), seed);
			_generator.construct(seed);
			wipe(&seed, sizeof(seed));

			/* the same seed twice is not the same sequence */
			Trace::Timestamp const now = Trace::timestamp();
			_generator->mix((char const *)&now, sizeof(now));
		}
		return *_generator;
	}

	Vfs::File_system *create(Vfs::Env &, Node const &) override;
};


struct Vfs_random::File_system : Single_file_system
{
	Generator &_generator;

	File_system(Generator &generator, Node const &config)
	:
		Single_file_system(Node_type::CONTINUOUS_FILE, name(), Node_rwx::rw(), config),
		_generator(generator)
	{ }

	static char const *name()   { return "random"; }
	char const *type() override { return "random"; }

	struct Random_handle : Single_vfs_handle
	{
		Generator &_generator;

		Random_handle(File_system &fs, Allocator &alloc, unsigned flags)
		:
			Single_vfs_handle(fs, fs, alloc, flags), _generator(fs._generator)
		{ }

		Read_result read(Byte_range_ptr const &dst, size_t &out_count) override
		{
			_generator.generate(dst.start, dst.num_bytes);
			out_count = dst.num_bytes;
			return READ_OK;
		}

		Write_result write(Const_byte_range_ptr const &src, size_t &out_count) override
		{
			_generator.mix(src.start, src.num_bytes);
			out_count = src.num_bytes;
			return WRITE_OK;
		}

		bool read_ready()  const override { return true; }
		bool write_ready() const override { return true; }
	};

	Open_result open(char const *path, unsigned flags,
	                 Vfs_handle **out_handle, Allocator &alloc) override
	{
		if (!_single_file(path))
			return OPEN_ERR_UNACCESSIBLE;

		try {
			*out_handle = new (alloc) Random_handle(*this, alloc, flags);
			return OPEN_OK;
		}
		catch (Out_of_ram)  { return OPEN_ERR_OUT_OF_RAM; }
		catch (Out_of_caps) { return OPEN_ERR_OUT_OF_CAPS; }
	}

	Ftruncate_result ftruncate(Vfs_handle *, file_size) override { return FTRUNCATE_OK; }
};


Genode::Vfs::File_system *Vfs_random::Factory::create(Vfs::Env &env, Node const &config)
{
	try {
		return new (env.alloc()) File_system(_generator_for(env, config), config);
	}
	catch (Invalid_seed) { error("random: the seed is no ROM module that begins with 64 hexadecimal digits"); }
	catch (...)          { error("random: the seed cannot be read"); }

	return nullptr;
}


extern "C" Genode::Vfs::File_system_factory *vfs_file_system_factory(void)
{
	static Vfs_random::Factory factory;
	return &factory;
}
