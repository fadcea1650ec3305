/*
 * \brief  Merged view of the layers
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

#ifndef _COW__STACK_H_
#define _COW__STACK_H_

/* local includes */
#include "index.h"

namespace Vfs_cow { class Stack; }


class Vfs_cow::Stack : Noncopyable
{
	public:

		using Mask = uint64_t;

		static constexpr unsigned MAX_LAYERS = 64;
		static constexpr unsigned UPPER      = 0;

		struct Found
		{
			bool      parent;   /* the parent is a directory */
			bool      exists;
			Node_type type;
			unsigned  layer;    /* uppermost layer that has it */
			Stat      stat;
			Mask      dirs;     /* layers that make up the directory */
			bool      whiteout; /* the upper layer has a marker for it */
			bool      lower;    /* would be visible without the upper's own */

			bool dir()      const { return exists && type == Node_type::DIRECTORY; }
			bool symlink()  const { return exists && type == Node_type::SYMLINK; }
			bool file()     const { return exists && !dir() && !symlink(); }
			bool in_upper() const { return exists && layer == UPPER; }
		};

	private:

		Genode::Vfs::Env::Io &_io;

		Constructible<Layer> _layers[MAX_LAYERS] { };

		unsigned _num = 0;

		Mask _root = 0;

		bool _in(Mask mask, unsigned i) const { return mask & (1ULL << i); }

	public:

		Stack(Genode::Vfs::Env::Io &io) : _io(io) { }

		Genode::Vfs::Env::Io &io() { return _io; }

		/**
		 * Add next layer below the ones that are already there
		 *
		 * \return false if there are too many
		 */
		bool add(Fs &fs, bool lowest, Index *index_ptr = nullptr)
		{
			if (_num == MAX_LAYERS)
				return false;

			_layers[_num].construct(fs, lowest, index_ptr);
			_num++;
			return true;
		}

		/**
		 * To be called once, after the last 'add'
		 */
		void complete()
		{
			for (unsigned i = 0; i < _num; i++) {
				_root |= (1ULL << i);
				if (_layers[i]->opaque(Path()))
					break;
			}
		}

		unsigned num_layers() const { return _num; }

		Layer &layer(unsigned i) { return *_layers[i]; }

		/**
		 * Inode number that is unique among all layers
		 */
		unsigned long inode(unsigned layer, unsigned long inode) const {
			return inode*_num + layer; }

		Found lookup(Path const &path)
		{
			Found found { };

			if (!path.valid() || path.reserved())
				return found;

			if (path.root()) {
				found.parent = found.exists = true;
				found.type   = Node_type::DIRECTORY;
				found.dirs   = _root;
				found.exists = _layers[UPPER]->stat(path, found.stat);
				if (!found.exists) {
					found.exists = true;
					found.stat = { .size = 0, .type = Node_type::DIRECTORY,
					               .rwx = Node_rwx::rwx(), .inode = 1,
					               .device = 0, .modification_time = { } };
				}
				return found;
			}

			Mask candidates = _root;

			path.for_each_prefix([&] (Path const &prefix, bool last) {

				found        = { };
				found.parent = last;

				for (unsigned i = 0; i < _num; i++) {

					if (!_in(candidates, i))
						continue;

					Layer const &layer = *_layers[i];

					bool const whiteout = layer.whiteout(prefix);

					if (i == UPPER)
						found.whiteout = whiteout;

					Stat stat { };
					if (layer.stat(prefix, stat)) {

						bool const dir = (stat.type == Node_type::DIRECTORY);

						if (!found.exists) {
							found.exists = true;
							found.type   = stat.type;
							found.layer  = i;
							found.stat   = stat;

						} else if (!dir)
							break; /* hidden by the directory above */

						if (!dir)
							break;

						found.dirs |= (1ULL << i);

						if (layer.opaque(prefix))
							break;
					}

					if (whiteout)
						break;
				}

				if (last)
					found.lower = _below_upper(prefix, candidates, found.whiteout);

				candidates = found.dirs;
				return found.dir();
			});

			/* an element of the path other than the last one is no directory */
			if (!found.parent)
				found = { };

			return found;
		}

	private:

		bool _below_upper(Path const &path, Mask candidates, bool whiteout) const
		{
			if (whiteout)
				return false;

			for (unsigned i = UPPER + 1; i < _num; i++) {

				if (!_in(candidates, i))
					continue;

				Stat stat { };
				if (_layers[i]->stat(path, stat)) return true;
				if (_layers[i]->whiteout(path))   return false;
			}
			return false;
		}
};

#endif /* _COW__STACK_H_ */
