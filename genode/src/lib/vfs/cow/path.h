/*
 * \brief  Normalised absolute path within a layer
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

#ifndef _COW__PATH_H_
#define _COW__PATH_H_

/* Genode includes */
#include <vfs/types.h>
#include <vfs/directory_service.h>

namespace Vfs_cow {

	using namespace Genode;
	using namespace Genode::Vfs;

	class Path;
}


/**
 * Path that starts with a slash and has neither empty elements nor a
 * trailing slash
 *
 * In contrast to 'Genode::Path', a path that does not fit is never cut but
 * marked as invalid, and names that end with a dot keep it.
 */
class Vfs_cow::Path
{
	private:

		char   _buf[MAX_PATH_LEN] { '/', 0 };
		size_t _len   = 1;   /* without the terminating zero */
		bool   _valid = true;

		void _append(char const *s, size_t n)
		{
			if (_len + n >= sizeof(_buf)) {
				_valid = false;
				return;
			}
			memcpy(_buf + _len, s, n);
			_len += n;
			_buf[_len] = 0;
		}

		void _append_element(char const *s, size_t n)
		{
			if (_len > 1)
				_append("/", 1);
			_append(s, n);
		}

		size_t _parent_len() const
		{
			size_t n = _len;
			while (n > 1 && _buf[n - 1] != '/') n--;
			return n > 1 ? n - 1 : n;
		}

	public:

		/**
		 * Longest name that a directory entry can carry
		 */
		static constexpr size_t MAX_NAME = Directory_service::Dirent::Name::MAX_LEN - 1;

		static constexpr char const *MARKER_PREFIX = ".wh.";
		static constexpr size_t      MARKER_LEN    = 4;
		static constexpr char const *OPAQUE_NAME   = ".wh..wh..opq";
		static constexpr char const *WORK_NAME     = ".wh..wh.work";

		static bool marker(char const *name) {
			return strcmp(name, MARKER_PREFIX, MARKER_LEN) == 0; }

		Path() { }

		explicit Path(char const *path)
		{
			while (*path) {
				while (*path == '/') path++;

				size_t n = 0;
				while (path[n] && path[n] != '/') n++;

				if (!n) break;

				/* dots are resolved by the user of the VFS */
				if ((n == 1 && path[0] == '.')
				 || (n == 2 && path[0] == '.' && path[1] == '.'))
					_valid = false;

				_append_element(path, n);
				path += n;
			}
		}

		Path(Path const &dir, char const *prefix, char const *name) : Path(dir)
		{
			_append_element(prefix, strlen(prefix));
			_append(name, strlen(name));
		}

		Path(Path const &dir, char const *name) : Path(dir, "", name) { }

		char const *string() const { return _buf; }
		bool valid()         const { return _valid; }
		bool root()          const { return _len == 1; }

		char const *name() const
		{
			char const *result = _buf + _len;
			while (result[-1] != '/') result--;
			return result;
		}

		bool name_fits() const { return strlen(name()) <= MAX_NAME; }

		Path parent() const
		{
			Path result { *this };
			result._len = _parent_len();
			result._buf[result._len] = 0;
			return result;
		}

		bool operator == (Path const &other) const {
			return _len == other._len && strcmp(_buf, other._buf) == 0; }

		/**
		 * Return true if path is 'dir' or lies below it
		 */
		bool in(Path const &dir) const
		{
			if (dir.root()) return true;
			return _len >= dir._len
			    && strcmp(_buf, dir._buf, dir._len) == 0
			    && (_buf[dir._len] == 0 || _buf[dir._len] == '/');
		}

		/**
		 * Return path with its first part 'from' replaced by 'to'
		 */
		Path moved(Path const &from, Path const &to) const
		{
			Path result { to };
			for (char const *rest = _buf + from._len; *rest; ) {
				while (*rest == '/') rest++;
				size_t n = 0;
				while (rest[n] && rest[n] != '/') n++;
				if (n) result._append_element(rest, n);
				rest += n;
			}
			result._valid = result._valid && _valid;
			return result;
		}

		/**
		 * Call 'fn' with each prefix, from the first element to the full path,
		 * until 'fn' returns false
		 */
		void for_each_prefix(auto const &fn) const
		{
			Path prefix { };
			for (char const *s = _buf + 1; *s; ) {
				size_t n = 0;
				while (s[n] && s[n] != '/') n++;
				prefix._append_element(s, n);
				s += n;
				if (!fn(prefix, *s == 0)) return;
				if (*s == '/') s++;
			}
		}

		/**
		 * Return true if any element is a name that only the plugin may use
		 */
		bool reserved() const
		{
			for (char const *s = _buf; *s; s++)
				if (*s == '/' && marker(s + 1))
					return true;
			return false;
		}

		/**
		 * Return path of the marker that hides this path in the layers below
		 */
		Path whiteout() const { return Path(parent(), MARKER_PREFIX, name()); }

		/**
		 * Return path of the marker that hides the content of this directory
		 * in the layers below
		 */
		Path opaque() const { return Path(*this, OPAQUE_NAME); }
};

#endif /* _COW__PATH_H_ */
