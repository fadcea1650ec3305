/*
 * \brief  Dataspaces handed out to the user of the VFS
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

#ifndef _COW__DATASPACES_H_
#define _COW__DATASPACES_H_

/* local includes */
#include "stack.h"

namespace Vfs_cow { class Dataspaces; }


/**
 * A dataspace has to be released at the layer that it came from, which need
 * not be the one that has the file at that time
 */
class Vfs_cow::Dataspaces : Noncopyable
{
	private:

		struct Lent : List<Lent>::Element
		{
			Dataspace_capability const ds;
			unsigned             const layer;
			Path                 const path;

			Lent(Dataspace_capability ds, unsigned layer, Path const &path)
			: ds(ds), layer(layer), path(path) { }
		};

		Allocator &_alloc;
		Stack     &_stack;

		List<Lent> _lent { };

	public:

		Dataspaces(Allocator &alloc, Stack &stack) : _alloc(alloc), _stack(stack) { }

		Dataspace_capability lend(Path const &path, unsigned layer)
		{
			Fs &fs = _stack.layer(layer).fs;

			Dataspace_capability const ds = guarded(Dataspace_capability(), [&] {
				return fs.dataspace(path.string()); });

			if (!ds.valid())
				return { };

			try { _lent.insert(new (_alloc) Lent(ds, layer, path)); }
			catch (...) {
				fs.release(path.string(), ds);
				return { };
			}
			return ds;
		}

		void release(Dataspace_capability ds)
		{
			for (Lent *ptr = _lent.first(); ptr; ptr = ptr->next())
				if (ptr->ds == ds) {
					_stack.layer(ptr->layer).fs.release(ptr->path.string(), ds);
					_lent.remove(ptr);
					destroy(_alloc, ptr);
					return;
				}
		}
};

#endif /* _COW__DATASPACES_H_ */
