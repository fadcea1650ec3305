/*
 * \brief  Environment of the writable layer
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

#ifndef _COW__UPPER_ENV_H_
#define _COW__UPPER_ENV_H_

/* Genode includes */
#include <base/heap.h>
#include <vfs/env.h>

namespace Vfs_cow {

	using namespace Genode;

	class Upper_ram;
	class Upper_env;
}


/**
 * RAM allocator that reports exhaustion instead of waiting for the parent
 *
 * A component that allocates more than its quota is blocked until its parent
 * upgrades the quota, which usually means forever. File systems that store
 * content in RAM would stop the whole VFS with them. So never ask for more
 * than there is.
 */
class Vfs_cow::Upper_ram : public Ram::Accounted_allocator<Ram::Constrained_allocator>
{
	private:

		using Base = Ram::Accounted_allocator<Ram::Constrained_allocator>;

		Genode::Env &_env;

		Ram_quota_guard _limit;
		Cap_quota_guard _caps { Cap_quota { ~0UL } };

		/* left to the rest of the component, e.g., for opening handles */
		static constexpr size_t RESERVED_RAM  = 256*1024;
		static constexpr size_t RESERVED_CAPS = 16;

	public:

		Upper_ram(Genode::Env &env, size_t limit)
		: Base(env.ram(), _limit, _caps), _env(env), _limit(Ram_quota { limit }) { }

		Result try_alloc(size_t size, Cache cache = CACHED) override
		{
			if (_env.pd().avail_ram().value < align_addr(size, AT_PAGE) + RESERVED_RAM)
				return Error::OUT_OF_RAM;

			if (_env.pd().avail_caps().value < RESERVED_CAPS)
				return Error::OUT_OF_CAPS;

			return Base::try_alloc(size, cache);
		}
};


class Vfs_cow::Upper_env : public Genode::Vfs::Env
{
	private:

		Genode::Vfs::Env &_env;

		Upper_ram _ram;

		Heap _heap { &_ram, &_env.env().rm() };

	public:

		Upper_env(Genode::Vfs::Env &env, size_t limit)
		: _env(env), _ram(env.env(), limit) { }

		Allocator &alloc() override { return _heap; }

		Genode::Env              &env()      override { return _env.env(); }
		Genode::Vfs::File_system &root_dir() override { return _env.root_dir(); }
		Io                       &io()       override { return _env.io(); }
		User                     &user()     override { return _env.user(); }

		Genode::Vfs::Remote_io::Deferred_wakeups &deferred_wakeups() override {
			return _env.deferred_wakeups(); }
};

#endif /* _COW__UPPER_ENV_H_ */
