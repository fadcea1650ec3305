/*
 * \brief  Random operations, compared with a plain file system
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

#ifndef _RANDOM_OPS_H_
#define _RANDOM_OPS_H_

/* local includes */
#include "tree.h"

namespace Test { class Random_ops; }


/**
 * Each operation is performed at the tree under test and at a model, which is
 * a 'ram' file system. Both must look the same afterwards, and the operation
 * must succeed or fail at both. Open files are tracked, too: their content must
 * follow the file through renames, and stay when the file is removed.
 *
 * No file of the model is left open, and no operation that the model does not
 * check itself gets there.
 */
class Test::Random_ops : Noncopyable
{
	public:

		using Path = String<128>;

	private:

		Tree &_tree, &_model;

		bool const _symlinks;

		uint64_t _state;

		/* the most recent operation, for telling what led to a difference */
		String<160> _last { };

		unsigned _random(unsigned n)
		{
			_state ^= _state << 13;
			_state ^= _state >> 7;
			_state ^= _state << 17;
			return (unsigned)((_state >> 11) % n);
		}

		Path _random_path()
		{
			Path result { };
			for (unsigned i = 0, depth = 1 + _random(3); i < depth; i++) {
				char const name[2] { char('a' + _random(4)), 0 };
				result = Path(result, "/", (char const *)name);
			}
			return result;
		}

		enum class Type { NONE, FILE, DIR, LINK };

		static Type _type(Tree &tree, Path const &path)
		{
			Ds::Stat s { };
			if (!tree.stat(path, s)) return Type::NONE;
			if (s.type == Vfs::Node_type::DIRECTORY) return Type::DIR;
			if (s.type == Vfs::Node_type::SYMLINK)   return Type::LINK;
			return Type::FILE;
		}

		static Path _parent(Path const &path)
		{
			size_t n = path.length() - 1;
			while (n && path.string()[n - 1] != '/') n--;
			return Path(Cstring(path.string(), n ? n - 1 : 0));
		}

		/* return true if 'path' is 'dir' or lies below */
		static bool _in(Path const &path, Path const &dir)
		{
			size_t const n = dir.length() - 1;
			return strcmp(path.string(), dir.string(), n) == 0
			    && (path.string()[n] == 0 || path.string()[n] == '/');
		}

		struct Slot
		{
			Constructible<Opened> file { };

			Path path    { };
			bool removed = false;
			Text content { }; /* if removed */
		};

		static constexpr unsigned NUM_SLOTS = 4;

		Slot _slots[NUM_SLOTS];

		void _for_each_slot(auto const &fn) {
			for (Slot &slot : _slots) if (slot.file.constructed()) fn(slot); }

		/* note that the file at 'path' is about to vanish */
		void _vanish(Path const &path)
		{
			_for_each_slot([&] (Slot &slot) {
				if (!slot.removed && slot.path == path) {
					slot.content = _model.read(path);
					slot.removed = true;
				}
			});
		}

		void _moved(Path const &from, Path const &to)
		{
			_for_each_slot([&] (Slot &slot) {
				if (!slot.removed && _in(slot.path, from))
					slot.path = Path(to, slot.path.string() + from.length() - 1); });
		}

		bool _differ(char const *what)
		{
			error("step differs: ", _last, ": ", what);
			return false;
		}

		bool _both(bool tree, bool model)
		{
			if (tree == model) return true;
			error("step differs: ", _last, ": ", tree ? "succeeded" : "failed", ", model ",
			      model ? "succeeded" : "failed");
			return false;
		}

		static bool _truncate(Tree &tree, Path const &path, unsigned len)
		{
			Opened file { tree.io() };
			return tree.open(path, Ds::OPEN_MODE_RDWR, file) == Ds::OPEN_OK
			    && file.truncate(len) == Io::FTRUNCATE_OK
			    && file.sync() == Io::SYNC_OK;
		}

		bool _remove()
		{
			Path const path = _random_path();
			_last = { "remove ", path };

			/* the model removes directories along with their content */
			bool const full = _type(_model, path) == Type::DIR && _model.names(path) != "";
			if (!full && _type(_model, path) == Type::FILE)
				_vanish(path);

			Ds::Unlink_result const result = _tree.unlink(path);

			if (full)
				return result == Ds::UNLINK_ERR_NOT_EMPTY || _differ("not refused");

			return _both(result == Ds::UNLINK_OK, _model.unlink(path) == Ds::UNLINK_OK);
		}

		bool _remove_all(Path const &path)
		{
			if (_type(_model, path) == Type::DIR)
				for (char c = 'a'; c <= 'd'; c++) {
					char const name[2] { c, 0 };
					Path const sub(path, "/", (char const *)name);
					if (_type(_model, sub) != Type::NONE && !_remove_all(sub))
						return false;
				}

			if (_type(_model, path) == Type::FILE)
				_vanish(path);

			return _both(_tree.unlink(path) == Ds::UNLINK_OK, _model.unlink(path) == Ds::UNLINK_OK);
		}

		/**
		 * Replace directory by another one
		 */
		bool _replace_dir()
		{
			Path const path = _random_path();
			_last = { "replace directory ", path };

			if (_type(_model, path) != Type::DIR)
				return true;

			if (!_remove_all(path))
				return false;

			if (_random(2))
				return _both(_tree.mkdir(path)  == Ds::OPENDIR_OK,
				             _model.mkdir(path) == Ds::OPENDIR_OK);

			Path const other("/d");
			if (_type(_model, other) != Type::NONE)
				return true;

			return _both(_tree.mkdir(other)  == Ds::OPENDIR_OK,
			             _model.mkdir(other) == Ds::OPENDIR_OK)
			    && _rename(other, path);
		}

		bool _rename() { return _rename(_random_path(), _random_path()); }

		bool _rename(Path const &from, Path const &to)
		{
			_last = { "rename ", from, " to ", to };

			Type const f = _type(_model, from), t = _type(_model, to);

			bool const dir = (f == Type::DIR);

			/* what the model does not check */
			bool const refuse = f == Type::NONE
			                 || (_parent(to) != "" && _type(_model, _parent(to)) != Type::DIR)
			                 || (from != to && (_in(to, from)
			                                 || (t == Type::DIR && !dir)
			                                 || (t != Type::DIR && t != Type::NONE && dir)
			                                 || (t == Type::DIR && _model.names(to) != "")));

			bool const replaces = !refuse && from != to && (t == Type::FILE);

			/* what is replaced must be remembered before */
			Text const replaced = replaces ? _model.read(to) : Text();

			Ds::Rename_result const result = _tree.rename(from, to);

			if (refuse)
				return result != Ds::RENAME_OK || _differ("not refused");

			/* merged directories are not renamed */
			if (dir && result == Ds::RENAME_ERR_CROSS_FS)
				return true;

			if (result == Ds::RENAME_OK && from != to) {
				_for_each_slot([&] (Slot &slot) {
					if (replaces && !slot.removed && slot.path == to) {
						slot.content = replaced;
						slot.removed = true;
					}
				});
				_moved(from, to);
			}
			return _both(result == Ds::RENAME_OK, _model.rename(from, to) == Ds::RENAME_OK);
		}

		bool _open()
		{
			Slot &slot = _slots[_random(NUM_SLOTS)];
			slot.file.destruct();

			Path const path = _random_path();
			_last = { "open ", path };

			if (_type(_model, path) != Type::FILE)
				return true;

			slot.file.construct(_tree.io());
			slot.path    = path;
			slot.removed = false;
			return _tree.open(path, Ds::OPEN_MODE_RDWR, *slot.file) == Ds::OPEN_OK
			    || (slot.file.destruct(), _differ("open failed"));
		}

		bool _write_open()
		{
			Slot &slot = _slots[_random(NUM_SLOTS)];
			_last = { "write to open ", slot.path };

			if (!slot.file.constructed())
				return true;

			unsigned const at = _random(100);
			char const content[3] { char('A' + _random(26)), char('A' + _random(26)), 0 };

			if (slot.removed) {
				/* within the text, to keep the expectation simple */
				size_t const len = slot.content.length() ? slot.content.length() - 1 : 0;
				if (at + 2 > len)
					return true;
				char text[Text::capacity()] { };
				copy_cstring(text, slot.content.string(), sizeof(text));
				memcpy(text + at, content, 2);
				slot.content = Text(Cstring(text));
				return (slot.file->write(at, content) == Io::WRITE_OK
				        && slot.file->sync() == Io::SYNC_OK) || _differ("write failed");
			}

			return _both(slot.file->write(at, content) == Io::WRITE_OK
			             && slot.file->sync() == Io::SYNC_OK,
			             _model.write(slot.path, content, at));
		}

		bool _compare_open()
		{
			bool ok = true;
			_for_each_slot([&] (Slot &slot) {
				Text const expected = slot.removed ? slot.content : _model.read(slot.path);
				Text const got      = slot.file->text();
				if (got != expected) {
					error("open file ", slot.path, slot.removed ? " (removed)" : "",
					      " differs after: ", _last, ": '", got, "' instead of '", expected, "'");
					ok = false;
				}
			});
			return ok;
		}

	public:

		Random_ops(Tree &tree, Tree &model, bool symlinks, unsigned long seed)
		: _tree(tree), _model(model), _symlinks(symlinks), _state(seed*2654435761UL + 88172645463325252UL) { }

		/**
		 * Copy tree under test to the model
		 */
		bool copy_to_model(Path const &dir = { })
		{
			bool ok = true;
			for (char c = 'a'; c <= 'd'; c++) {
				char const name[2] { c, 0 };
				Path const path(dir, "/", (char const *)name);
				switch (_type(_tree, path)) {
				case Type::NONE: break;
				case Type::FILE: ok &= _model.create(path, _tree.read(path).string()); break;
				case Type::LINK: ok &= _model.symlink(path, _tree.readlink(path).string()); break;
				case Type::DIR:  ok &= _model.mkdir(path) == Ds::OPENDIR_OK && copy_to_model(path); break;
				}
			}
			return ok;
		}

		/**
		 * Return true if 'tree' looks the same as the model
		 */
		bool equal(Tree &tree, Path const &dir = { })
		{
			if (tree.names(dir) != _model.names(dir)) {
				error("directory '", dir, "' differs after: ", _last, ": '", tree.names(dir),
				      "' instead of '", _model.names(dir), "'");
				return false;
			}
			if (tree.fs().num_dirent(tree.path(dir).string())
			 != _model.fs().num_dirent(_model.path(dir).string())) {
				error("number of entries of '", dir, "' differs after: ", _last);
				return false;
			}

			for (char c = 'a'; c <= 'd'; c++) {
				char const name[2] { c, 0 };
				Path const path(dir, "/", (char const *)name);

				Type const type = _type(tree, path);
				if (type != _type(_model, path)) {
					error("type of ", path, " differs after: ", _last);
					return false;
				}
				if ((type == Type::FILE && tree.read(path) != _model.read(path))
				 || (type == Type::FILE && tree.size(path) != _model.size(path))
				 || (type == Type::LINK && tree.readlink(path) != _model.readlink(path))) {
					error("content of ", path, " differs after: ", _last, ": '", tree.read(path),
					      "' instead of '", _model.read(path), "'");
					return false;
				}
				if (type == Type::DIR && !equal(tree, path))
					return false;
			}
			return true;
		}

		/**
		 * Perform one operation
		 *
		 * \return false if the trees differ in the result
		 */
		bool step()
		{
			bool ok = true;

			Path const path = _random_path();

			switch (_random(_symlinks ? 13 : 12)) {

			case 0: case 1:
				_last = { "create ", path };
				ok = _both(_tree.create(path, "new"), _model.create(path, "new"));
				break;

			case 2: case 3:
				_last = { "write ", path };
				{
					unsigned const at = _random(100);
					ok = _both(_tree.write(path, "WW", at), _model.write(path, "WW", at));
				}
				break;

			case 4:
				_last = { "truncate ", path };
				{
					unsigned const len = _random(50);
					ok = _both(_truncate(_tree, path, len), _truncate(_model, path, len));
				}
				break;

			case 5:
				_last = { "mkdir ", path };
				ok = _both(_tree.mkdir(path) == Ds::OPENDIR_OK, _model.mkdir(path) == Ds::OPENDIR_OK);
				break;

			case 6: case 7: ok = _remove();     break;
			case 8:         ok = _rename();     break;
			case 9:         ok = _open();       break;
			case 10:        ok = _write_open(); break;

			case 11:        ok = _replace_dir(); break;

			case 12:
				_last = { "symlink ", path };
				ok = _both(_tree.symlink(path, "x/y"), _model.symlink(path, "x/y"));
				break;
			}
			return ok && _compare_open();
		}

		void close_all() { _for_each_slot([&] (Slot &slot) { slot.file.destruct(); }); }
};

#endif /* _RANDOM_OPS_H_ */
