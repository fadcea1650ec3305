/*
 * \brief  Merged directory listing
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

#ifndef _COW__LISTING_H_
#define _COW__LISTING_H_

/* Genode includes */
#include <util/avl_tree.h>
#include <util/list.h>

/* local includes */
#include "stack.h"

namespace Vfs_cow {

	class Listing;
	class Listing_cache;
}


/**
 * Content of a directory as seen when the listing was made
 */
class Vfs_cow::Listing : List<Listing>::Element
{
	private:

		friend class Listing_cache;
		friend class List<Listing>;
		friend class List<Listing>::Element;

		using List<Listing>::Element::next;

		struct Entry : Avl_node<Entry>
		{
			Dirent dirent;
			bool   hidden; /* by a whiteout of the layer it was found in */

			Entry *next_ptr = nullptr; /* in the order of the listing */

			Entry(Dirent const &dirent, bool hidden) : dirent(dirent), hidden(hidden) { }

			Entry(Entry const &) = delete;
			Entry &operator = (Entry const &) = delete;

			bool higher(Entry *other) {
				return strcmp(other->dirent.name.buf, dirent.name.buf) > 0; }

			Entry *find(char const *name)
			{
				int const order = strcmp(name, dirent.name.buf);
				if (order == 0) return this;
				Entry * const ptr = child(order > 0);
				return ptr ? ptr->find(name) : nullptr;
			}
		};

		Path const _path;

		Allocator &_alloc;

		Avl_tree<Entry> _tree { };

		Entry   *_first_ptr = nullptr;
		Entry   *_last_ptr  = nullptr;
		Entry  **_index     = nullptr; /* visible entries */
		unsigned _count     = 0;
		unsigned _users     = 0;
		bool     _complete  = true;

		/*
		 * Noncopyable
		 */
		Listing(Listing const &);
		Listing &operator = (Listing const &);

		void _add(Dirent const &dirent, bool hidden)
		{
			if (_tree.first() && _tree.first()->find(dirent.name.buf))
				return; /* a layer above has decided on this name */

			Entry &entry = *new (_alloc) Entry(dirent, hidden);

			_tree.insert(&entry);

			if (_last_ptr) _last_ptr->next_ptr = &entry;
			else           _first_ptr          = &entry;
			_last_ptr = &entry;

			if (!hidden)
				_count++;
		}

		size_t _index_size() const { return sizeof(Entry *)*max(_count, 1u); }

		void _import(Stack &stack, Genode::Vfs::Env::Io &io, Stack::Mask layers)
		{
			for (unsigned i = 0; i < stack.num_layers(); i++) {

				if (!(layers & (1ULL << i)))
					continue;

				auto add_entry = [&] (Dirent dirent)
				{
					if (Path::marker(dirent.name.buf))
						return;

					dirent.fileno = stack.inode(i, dirent.fileno);
					dirent.rwx.writeable = true;
					_add(dirent, false);
				};

				auto add_whiteout = [&] (Dirent const &dirent)
				{
					if (!Path::marker(dirent.name.buf))
						return;

					Dirent hidden = dirent;
					hidden.name = { dirent.name.buf + Path::MARKER_LEN };
					_add(hidden, true);
				};

				/* markers concern the layers below only, hence the two rounds */
				Layer const &layer = stack.layer(i);

				_complete &= layer.for_each_entry(io, _alloc, _path, add_entry);
				if (!layer.lowest)
					_complete &= layer.for_each_entry(io, _alloc, _path, add_whiteout);
			}
		}

	public:

		/**
		 * \throw Out_of_ram
		 * \throw Out_of_caps
		 * \throw Denied
		 */
		Listing(Allocator &alloc, Stack &stack, Genode::Vfs::Env::Io &io,
		        Path const &path, Stack::Mask layers)
		:
			_path(path), _alloc(alloc)
		{
			try {
				_import(stack, io, layers);

				_index = new (_alloc) Entry * [max(_count, 1u)];
			}
			catch (...) { _destruct(); throw; }

			unsigned i = 0;
			for (Entry *ptr = _first_ptr; ptr; ptr = ptr->next_ptr)
				if (!ptr->hidden)
					_index[i++] = ptr;
		}

		~Listing() { _destruct(); }

		unsigned count()    const { return _count; }
		bool     complete() const { return _complete; }

		bool with_entry(file_size i, auto const &fn) const
		{
			if (i >= _count)
				return false;

			fn(_index[i]->dirent);
			return true;
		}

	private:

		void _destruct()
		{
			if (_index)
				_alloc.free(_index, _index_size());

			while (Entry *ptr = _first_ptr) {
				_first_ptr = ptr->next_ptr;
				_tree.remove(ptr);
				destroy(_alloc, ptr);
			}
		}
};


/**
 * The listings that were used most recently
 *
 * The VFS asks for the number of entries of a directory each time it reads
 * one of them.
 */
class Vfs_cow::Listing_cache : Noncopyable
{
	private:

		static constexpr unsigned MAX_LISTINGS = 8;

		Allocator            &_alloc;
		Stack                &_stack;
		Genode::Vfs::Env::Io &_io;

		List<Listing> _listings { };  /* most recently used first */

		void _drop(Listing &listing)
		{
			_listings.remove(&listing);
			release(&listing);
		}

	public:

		Listing_cache(Allocator &alloc, Stack &stack, Genode::Vfs::Env::Io &io)
		: _alloc(alloc), _stack(stack), _io(io) { }

		/**
		 * Return listing of a directory, to be given back via 'release'
		 *
		 * \return nullptr if there is not enough memory
		 */
		Listing *acquire(Path const &path, Stack::Found const &found)
		{
			for (Listing *ptr = _listings.first(); ptr; ptr = ptr->next())
				if (ptr->_path == path) {
					_listings.remove(ptr);
					_listings.insert(ptr);
					ptr->_users++;
					return ptr;
				}

			Listing *result = nullptr;
			try { result = new (_alloc) Listing(_alloc, _stack, _io, path, found.dirs); }
			catch (...) { return nullptr; }

			result->_users = 1;

			/* try again next time if a layer could not be read */
			if (!result->complete())
				return result;

			result->_users++;
			_listings.insert(result);

			unsigned count = 0;
			Listing *last = nullptr;
			for (Listing *ptr = _listings.first(); ptr; ptr = ptr->next()) {
				last = ptr;
				count++;
			}
			if (count > MAX_LISTINGS)
				_drop(*last);

			return result;
		}

		void release(Listing *listing)
		{
			if (listing && --listing->_users == 0)
				destroy(_alloc, listing);
		}

		/**
		 * Forget listings of 'dir' and, if 'below' is set, of what is below it
		 */
		void invalidate(Path const &dir, bool below = false)
		{
			for (Listing *ptr = _listings.first(), *next = nullptr; ptr; ptr = next) {
				next = ptr->next();
				if (ptr->_path == dir || (below && ptr->_path.in(dir)))
					_drop(*ptr);
			}
		}
};

#endif /* _COW__LISTING_H_ */
