/*
 * \brief  File systems given by the configuration
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

#ifndef _COW__LAYERS_H_
#define _COW__LAYERS_H_

/* Genode includes */
#include <base/node.h>
#include <vfs/dir_file_system.h>
#include <vfs/file_system_factory.h>

/* local includes */
#include "stack.h"
#include "upper_env.h"

namespace Vfs_cow { class Layers; }


class Vfs_cow::Layers : Noncopyable
{
	public:

		struct Invalid_config : Exception { };

	private:

		Genode::Vfs::Env &_env;

		Global_file_system_factory _fs_factory { _env.alloc() };

		/**
		 * A stack that lacks a layer would show files that it should not
		 */
		struct Strict_factory : File_system_factory
		{
			File_system_factory &_factory;

			bool failed = false;

			Strict_factory(File_system_factory &factory) : _factory(factory) { }

			Fs *create(Genode::Vfs::Env &env, Node const &node) override
			{
				Fs * const fs = _factory.create(env, node);
				failed |= (fs == nullptr);
				return fs;
			}

		} _strict_factory { _fs_factory };

		Upper_env _upper_env;

		Fs &_upper;

		unsigned _num_lower = 0;

		/* as it was, for the layers that are made later */
		Constructible<Buffered_node> _late_config { };

		Constructible<Dir_file_system> _lower[Stack::MAX_LAYERS - 1] { };

		static size_t _limit(Node const &config)
		{
			return config.with_sub_node("upper",
				[&] (Node const &upper) -> size_t {
					return upper.attribute_value("limit", Number_of_bytes(~0UL)); },
				[&] () -> size_t { return ~0UL; });
		}

		Fs &_create_upper(Node const &config)
		{
			Fs      *fs    = nullptr;
			unsigned count = 0;

			config.for_each_sub_node("upper", [&] (Node const &upper) {
				upper.for_each_sub_node([&] (Node const &node) {
					if (count++ == 0)
						fs = _fs_factory.create(_upper_env, node); }); });

			if (count != 1)
				error("cow: one 'upper' node with one file system is needed, found ", count);
			else if (!fs)
				error("cow: could not create the file system of the 'upper' node");

			if (count != 1 || !fs)
				throw Invalid_config();

			return *fs;
		}

		void _make_lower(Node const &config)
		{
			config.for_each_sub_node("lower", [&] (Node const &lower) {

				if (_num_lower == Stack::MAX_LAYERS - 1) {
					error("cow: more than ", (unsigned)Stack::MAX_LAYERS - 1, " 'lower' nodes");
					throw Invalid_config();
				}
				_lower[_num_lower++].construct(_env, lower, _strict_factory);
			});

			if (_strict_factory.failed) {
				error("cow: could not create a file system of a 'lower' node");
				throw Invalid_config();
			}
		}

	public:

		bool const late;

		/**
		 * \throw Invalid_config
		 */
		Layers(Genode::Vfs::Env &env, Node const &config)
		:
			_env(env), _upper_env(env, _limit(config)), _upper(_create_upper(config)),
			late(config.attribute_value("late", false))
		{
			if (!late) {
				_make_lower(config);
				return;
			}

			_late_config.construct(env.alloc(), config);

			if (_late_config->num_sub_nodes() != config.num_sub_nodes()) {
				error("cow: no memory for the configuration");
				throw Invalid_config();
			}
		}

		/**
		 * Make the layers that were left for later
		 *
		 * \throw Invalid_config
		 */
		void make_late() { _make_lower(*_late_config); }

		Fs &upper() { return _upper; }

		unsigned num_lower() const { return _num_lower; }

		/**
		 * Call 'fn' with each lower file system, the uppermost first, and
		 * whether it is the lowest one
		 */
		void for_each_lower(auto const &fn)
		{
			for (unsigned i = 0; i < _num_lower; i++)
				fn(*_lower[i], i + 1 == _num_lower);
		}

		void apply_config(Node const &config)
		{
			config.with_optional_sub_node("upper", [&] (Node const &upper) {
				upper.for_each_sub_node([&] (Node const &node) {
					if (node.has_type(_upper.type()))
						_upper.apply_config(node); }); });

			unsigned i = 0;
			config.for_each_sub_node("lower", [&] (Node const &lower) {
				if (i < _num_lower)
					_lower[i++]->apply_config(lower); });
		}
};

#endif /* _COW__LAYERS_H_ */
