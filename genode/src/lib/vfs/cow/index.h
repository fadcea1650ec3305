/*
 * \brief  Names that the writable layer has
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

#ifndef _COW__INDEX_H_
#define _COW__INDEX_H_

/* Genode includes */
#include <util/avl_tree.h>
#include <util/list.h>

/* local includes */
#include "layer.h"

namespace Vfs_cow { class Index; }


/**
 * Most of what is looked up is in a lower layer, which is known only once the
 * upper layer was asked for the entry and for its whiteout, for each element
 * of the path. If the upper layer is reached by a session, each question takes
 * several RPCs. So read a directory when it is first used, and keep track of
 * the changes, all of which are made by the plugin.
 *
 * What the index does not know has to be asked for.
 */
class Vfs_cow::Index : Noncopyable
{
	private:

		static constexpr unsigned MAX_DIRS    = 128;
		static constexpr unsigned MAX_ENTRIES = 512; /* of a directory */

		struct Entry : Avl_node<Entry>
		{
			using Name = String<Path::MAX_NAME + 1>;

			Name const name;

			Entry(char const *name) : name(name) { }

			bool higher(Entry *other) {
				return strcmp(other->name.string(), name.string()) > 0; }

			Entry *find(char const *s)
			{
				int const order = strcmp(s, name.string());
				if (order == 0) return this;
				Entry * const ptr = child(order > 0);
				return ptr ? ptr->find(s) : nullptr;
			}
		};

		struct Dir : List<Dir>::Element
		{
			Path const path;

			bool     known = false; /* too large otherwise */
			unsigned count = 0;

			Avl_tree<Entry> entries { };

			Dir(Path const &path) : path(path) { }

			Entry *find(char const *name) {
				return entries.first() ? entries.first()->find(name) : nullptr; }
		};

		Genode::Vfs::Env::Io &_io;
		Allocator            &_alloc;
		Layer const           _layer;

		bool const _enabled;

		List<Dir> _dirs { };  /* most recently used first */

		void _clear(Dir &dir)
		{
			dir.known = false;
			dir.count = 0;
			while (Entry * const ptr = dir.entries.first()) {
				dir.entries.remove(ptr);
				destroy(_alloc, ptr);
			}
		}

		void _drop(Dir &dir)
		{
			_clear(dir);
			_dirs.remove(&dir);
			destroy(_alloc, &dir);
		}

		void _insert(Dir &dir, char const *name)
		{
			if (dir.find(name))
				return;

			if (dir.count == MAX_ENTRIES) {
				_clear(dir);
				return;
			}
			dir.entries.insert(new (_alloc) Entry(name));
			dir.count++;
		}

		Dir *_loaded(Path const &path)
		{
			for (Dir *ptr = _dirs.first(); ptr; ptr = ptr->next())
				if (ptr->path == path)
					return ptr;
			return nullptr;
		}

		/**
		 * \return false if the directory could not be read
		 */
		bool _load(Dir &dir)
		{
			if (guarded(0ULL, [&] { return _layer.fs.num_dirent(dir.path.string()); }) > MAX_ENTRIES)
				return true;

			dir.known = true;

			bool const complete = _layer.for_each_entry(_io, _alloc, dir.path,
				[&] (Dirent const &dirent) {
					if (dir.known) _insert(dir, dirent.name.buf); });

			return complete;
		}

		Dir *_dir(Path const &path)
		{
			if (Dir * const ptr = _loaded(path)) {
				_dirs.remove(ptr);
				_dirs.insert(ptr);
				return ptr;
			}

			Dir &dir = *new (_alloc) Dir(path);
			_dirs.insert(&dir);

			bool loaded = false;
			try { loaded = _load(dir); } catch (...) { }

			if (!loaded) {
				_drop(dir);
				return nullptr;
			}

			unsigned count = 0;
			Dir *last = nullptr;
			for (Dir *ptr = _dirs.first(); ptr; ptr = ptr->next(), count++)
				last = ptr;
			if (count > MAX_DIRS)
				_drop(*last);

			return &dir;
		}

	public:

		Index(Genode::Vfs::Env::Io &io, Allocator &alloc, Fs &fs)
		:
			_io(io), _alloc(alloc), _layer { fs, false, nullptr },
			_enabled(strcmp(fs.type(), "fs") == 0)
		{ }

		/**
		 * Return true if the layer certainly does not have the path
		 *
		 * The parent must be a directory of the layer. This may wait for I/O.
		 */
		bool absent(Path const &path)
		{
			if (!_enabled || path.root() || !path.valid())
				return false;

			try {
				Dir * const dir = _dir(path.parent());
				return dir && dir->known && !dir->find(path.name());
			}
			catch (...) { return false; }
		}

		/**
		 * Note that the layer has got a new entry
		 */
		void added(Path const &path)
		{
			Dir * const dir = _loaded(path.parent());
			if (!dir || !dir->known)
				return;

			try { _insert(*dir, path.name()); }
			catch (...) { _clear(*dir); }
		}

		/**
		 * Note that the layer has lost an entry, with all below
		 */
		void removed(Path const &path)
		{
			for (Dir *ptr = _dirs.first(), *next = nullptr; ptr; ptr = next) {
				next = ptr->next();
				if (ptr->path.in(path))
					_drop(*ptr);
			}

			if (Dir * const dir = _loaded(path.parent()))
				if (Entry * const ptr = dir->find(path.name())) {
					dir->entries.remove(ptr);
					dir->count--;
					destroy(_alloc, ptr);
				}
		}
};


bool Vfs_cow::Layer::absent(Path const &path) const {
	return index_ptr && index_ptr->absent(path); }

#endif /* _COW__INDEX_H_ */
