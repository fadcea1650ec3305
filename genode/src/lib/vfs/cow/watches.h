/*
 * \brief  Notification about changes
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

#ifndef _COW__WATCHES_H_
#define _COW__WATCHES_H_

/* Genode includes */
#include <vfs/vfs_handle.h>
#include <util/list.h>

/* local includes */
#include "layer.h"

namespace Vfs_cow {

	class Watch_handle;
	class Watches;
}


class Vfs_cow::Watch_handle : public Vfs_watch_handle, private List<Watch_handle>::Element
{
	private:

		friend class List<Watch_handle>;
		friend class List<Watch_handle>::Element;

	public:

		using List<Watch_handle>::Element::next;

		Path const path;

		Watch_handle(Fs &fs, Allocator &alloc, Path const &path)
		: Vfs_watch_handle(fs, alloc), path(path) { }
};


class Vfs_cow::Watches : Noncopyable
{
	private:

		List<Watch_handle> _handles { };

	public:

		void insert(Watch_handle &handle) { _handles.insert(&handle); }
		void remove(Watch_handle &handle) { _handles.remove(&handle); }

		void notify(Path const &path)
		{
			for (Watch_handle *ptr = _handles.first(), *next = nullptr; ptr; ptr = next) {
				next = ptr->next();
				if (ptr->path == path)
					ptr->watch_response();
			}
		}
};

#endif /* _COW__WATCHES_H_ */
